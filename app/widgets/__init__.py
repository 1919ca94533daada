"""Parts of pages: the frame, pickers, cards and forms."""

"""The report of a finished study, to be printed and handed on, as HTML or markdown."""

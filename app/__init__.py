"""Charts, pages and words of the dashboard. Reads run folders only; nothing is trained here."""

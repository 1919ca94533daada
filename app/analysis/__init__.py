"""Numbers behind a page: what is computed from runs and recorded visits before anything is drawn."""

"""Run folders on disk: atomic files, typed configuration, hashes."""

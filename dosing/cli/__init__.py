"""The command line: one thin file for each command, joined in ``dosing.cli.main``."""

"""``python -m dosing``."""

import sys

from dosing.cli import main

if __name__ == "__main__":
    sys.exit(main())

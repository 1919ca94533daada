"""``python -m dosing``."""

import sys

from dosing.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

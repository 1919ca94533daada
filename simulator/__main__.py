"""``python -m simulator``; nothing is imported from the working folder, whatever it holds."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]  # `python -m` puts the working folder there
    from simulator.cli import main
    from simulator.envs import add_packaged

    add_packaged()
    sys.exit(main())

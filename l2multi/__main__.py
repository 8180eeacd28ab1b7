"""``python -m l2multi`` is the command ``l2multi``."""

import sys

from l2multi.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m lswag_hooks`` is ``lswag``."""

import sys

from lswag_hooks.cli import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())

"""``python -m ciuic`` is the command ``ciuic``."""

from __future__ import annotations

import sys

from ciuic.cli import main

if __name__ == "__main__":
    sys.exit(main())

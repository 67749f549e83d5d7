"""`python -m scripts.animate --config ...`, as in the original AnimateDiff."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/animate.py` in a checkout
    from animatediff.cli.original import main

    sys.exit(main())

"""`python train.py --config FILE`, as in the original AnimateDiff."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from animatediff.cli.original_train import main

    sys.exit(main())

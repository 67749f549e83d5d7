"""AnimateDiff in the Stable Diffusion WebUIs: A1111, reForge and Forge Neo.

`scripts/animatediff_script.py` is the script that the hosts load; everything it does is here. Read `settings.py` (what
users say), `job.py` (what one generation needs), `generation.py` (its life, from the page to the files), `backends/`
(how a host's UNet gets motion modules).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _find_package() -> None:
    """Let `import animatediff` find the repository that this extension is linked from, where it is not installed."""
    root = Path(__file__).resolve().parents[3]
    if (root / "animatediff" / "motion" / "ldm.py").is_file() and str(root) not in sys.path:
        sys.path.append(str(root))
    if importlib.util.find_spec("animatediff") is None:
        raise ImportError(
            "the package `animatediff` is not installed here: link this extension's folder from its repository, or "
            "run pip install --no-deps PATH_OF_THE_REPOSITORY in the environment of the WebUI"
        )


_find_package()

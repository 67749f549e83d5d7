"""The rendering of a process that serves predictions: bounded, checked, with the first model loaded."""

from __future__ import annotations

import logging
import os

from animatediff.errors import UserError
from animatediff.limits import LIMITS

from .render import Rendering
from .schema import stale
from .settings import BOUNDS, read_settings


def deployed() -> Rendering:
    """A rendering by `settings.yaml` and `models/`, for the whole process.

    Raises UserError where `run.py` does not have the inputs that these decide, and for a model that does not load.
    """
    if "run.py" in stale():  # a build of the image writes the schema anew, in a form of its own
        raise UserError(
            "run.py does not fit settings.yaml and models/: run `python -m animatediff_cog.schema` and build the image "
            "again"
        )
    for name, bound in BOUNDS.items():
        os.environ.setdefault(LIMITS[name].variable, str(bound))
    logging.getLogger("animatediff").addHandler(logging.NullHandler())  # its notes are told as events
    rendering = Rendering(read_settings())
    rendering.warm_up()
    return rendering

"""Gradio, imported here and nowhere else: it tells nobody that it runs, and keeps its files in a folder of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from animatediff.errors import UserError

# Read by Gradio while it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
if not os.environ.get("GRADIO_TEMP_DIR"):
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="animatediff-ui-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

try:
    import gradio as gr
except ImportError as error:
    raise UserError(f"the web page needs Gradio ({error}); pip install 'animatediff[ui]'") from error

__all__ = ["ImageFile", "ImageFiles", "gr", "uploads_folder"]


def uploads_folder() -> str:
    """The folder of files that browsers sent."""
    return os.path.realpath(os.environ["GRADIO_TEMP_DIR"])


class ImageFile(gr.Image):
    """An image by the name of its file, as it was sent: it is opened, and refused, by the readers of `media`."""

    is_template = True

    def preprocess(self, payload: object) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return getattr(payload, "path", None)


class ImageFiles(gr.Gallery):
    """Several images, likewise."""

    is_template = True

    def preprocess(self, payload: object) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        entries = getattr(payload, "root", None) or []
        files = (getattr(entry, "image", None) or getattr(entry, "video", None) for entry in entries)
        return [file.path for file in files if file is not None and file.path]

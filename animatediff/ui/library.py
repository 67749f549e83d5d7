"""Gradio, imported here and nowhere else: it tells nobody that it runs, and keeps its files in a folder of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import Any

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

__all__ = ["gr", "image_file", "image_files", "uploads_folder"]


def uploads_folder() -> str:
    """The folder of files that browsers sent."""
    return os.path.realpath(os.environ["GRADIO_TEMP_DIR"])


def image_file(**settings: Any) -> gr.Image:
    """An image by the name of its file, as it was sent: it is opened, and refused, by the readers of `media`.

    The component itself is changed, as Gradio writes a stub file beside the source of each subclass.
    """
    image = gr.Image(type="filepath", image_mode=None, **settings)
    vars(image)["preprocess"] = lambda payload: getattr(payload, "path", None)
    return image


def image_files(**settings: Any) -> gr.Gallery:
    """Several images, likewise."""

    def names(payload: Any) -> list[str]:
        entries = getattr(payload, "root", None) or []
        files = (getattr(entry, "image", None) or getattr(entry, "video", None) for entry in entries)
        return [file.path for file in files if file is not None and file.path]

    gallery = gr.Gallery(type="filepath", **settings)
    vars(gallery)["preprocess"] = names
    return gallery

"""Workflows of AnimateDiff-Evolved, Advanced-ControlNet, FizzNodes, Video Helper Suite, turned into nodes of this pack.

Nothing here needs ComfyUI: `python integrations/comfyui/ade WORKFLOW.json` translates a file.
"""

from .translate import Note, Translated, translate

__all__ = ["Note", "Translated", "translate"]

"""Types of links between the nodes of the pack."""

# pyright: reportMissingImports=false

from __future__ import annotations

from comfy_api.latest import io

MotionModuleLink = io.Custom("ANIMATEDIFF_MOTION_MODULE")
"""A loaded motion module with its MotionLoRAs, and what it sees: `motion.Motion`."""
CameraCtrlLink = io.Custom("ANIMATEDIFF_CAMERACTRL")
"""A loaded CameraCtrl model: `camera.Control`."""
SparseCtrlLink = io.Custom("ANIMATEDIFF_SPARSECTRL")
"""A loaded SparseCtrl encoder: `sparsectrl.Encoder`."""

"""Frames to files and back: mp4, webm, gif, webp, apng, folders of PNG, with the request inside."""

from animatediff.video.atomic import check_writable
from animatediff.video.grid import make_grid
from animatediff.video.read import read_metadata, read_video
from animatediff.video.write import VideoWriter, write_video

__all__ = ["VideoWriter", "check_writable", "make_grid", "read_metadata", "read_video", "write_video"]

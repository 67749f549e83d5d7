"""Frames to files and back: mp4, webm, mov, mkv, gif, webp, apng, folders of PNG, with the request inside."""

from animatediff.files import check_writable
from animatediff.media.grid import make_grid
from animatediff.media.read import read_metadata, read_video
from animatediff.media.write import VideoWriter, write_video

__all__ = ["VideoWriter", "check_writable", "make_grid", "read_metadata", "read_video", "write_video"]

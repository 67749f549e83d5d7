"""The folders in which the nodes look for files, as ComfyUI's `folder_paths` has them.

Read are AnimateDiff's own names below the host's models folder, and those that AnimateDiff-Evolved's users have.
`extra_model_paths.yaml` of the host adds to either.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths

from animatediff.errors import UserError, did_you_mean
from animatediff.files import is_within

MOTION_MODULES = ("animatediff_models", "Motion_Module")
MOTION_LORAS = ("animatediff_motion_lora", "MotionLoRA")
SPARSECTRLS = ("SparseCtrl", "controlnet")
CAMERAS = ("CameraCtrl", *MOTION_MODULES)
ADAPTERS = ("loras", *MOTION_LORAS, *MOTION_MODULES)
"""Kinds of files, each by the names of its folders: the names are those of `folder_paths`, and below models/."""
EVOLVED = {"animatediff_models": "models", "animatediff_motion_lora": "motion_lora"}
"""Name of a folder -> folder inside of the pack AnimateDiff-Evolved."""
EVOLVED_PACKS = ("ComfyUI-AnimateDiff-Evolved", "comfyui-animatediff-evolved")
NONE = "(no file found)"
"""What stands in a list where no folder has a file."""


def register_folders() -> None:
    """Make the folders known to the host; those that it knows stay as they are."""
    models = Path(folder_paths.models_dir)
    for name in dict.fromkeys((*MOTION_MODULES, *MOTION_LORAS, *SPARSECTRLS, *CAMERAS)):
        _register(name, models / name)
    for custom_nodes in folder_paths.get_folder_paths("custom_nodes"):
        for pack in EVOLVED_PACKS:
            for name, inside in EVOLVED.items():
                if (folder := Path(custom_nodes, pack, inside)).is_dir():
                    _register(name, folder)


def _register(name: str, folder: Path) -> None:
    folder_paths.add_model_folder_path(name, str(folder))
    paths, suffixes = folder_paths.folder_names_and_paths[name]
    if not suffixes:  # a new name has none, with which every file would be listed
        folder_paths.folder_names_and_paths[name] = (paths, set(folder_paths.supported_pt_extensions))


def files(names: Sequence[str]) -> list[str]:
    """The files in folders of these names, for a list; `NONE` where there are none."""
    found = dict.fromkeys(file for name in names for file in folder_paths.get_filename_list(name))
    return list(found) or [NONE]


def file_path(names: Sequence[str], file: str) -> Path:
    """The path of a file of a list. Raises UserError, with the nearest name, for one that no folder has."""
    for name in names:
        if (path := folder_paths.get_full_path(name, file)) is not None:
            return Path(path)
    folders = " or ".join(f"models/{name}" for name in names[:2])
    known = [entry for entry in files(names) if entry != NONE]
    raise UserError(
        f"there is no file {file} in {folders}; {did_you_mean(file, known)}put it there and refresh the list"
    )


def input_file(name: str) -> Path:
    """A file in the host's input folder; a workflow, which is often somebody else's, opens no other.

    Raises UserError for a file that is not there.
    """
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / name).resolve()
    if not is_within(str(path), str(folder)) or not path.exists():
        raise UserError(f"there is no file {name} in the host's input folder; put it there")
    return path


def stamp(names: Sequence[str], file: str) -> str:
    """What changes where the file of a list is another one: its path, size and date."""
    try:
        path = file_path(names, file)
        return f"{path} {size_and_date(path)}"
    except (UserError, OSError):
        return file


def size_and_date(path: Path) -> str:
    """What changes where a file at the same place is another one. Raises OSError for one that is not there."""
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"

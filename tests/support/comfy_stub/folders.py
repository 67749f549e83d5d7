"""`folder_paths`: names of kinds of files, their folders and suffixes."""

from __future__ import annotations

from pathlib import Path

supported_pt_extensions = {".ckpt", ".pt", ".bin", ".pth", ".safetensors"}
models_dir = "models"
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    "custom_nodes": (["custom_nodes"], set()),
    "loras": (["models/loras"], supported_pt_extensions),
    "controlnet": (["models/controlnet"], supported_pt_extensions),
    "checkpoints": (["models/checkpoints"], supported_pt_extensions),
    "vae": (["models/vae"], supported_pt_extensions),
}


def get_input_directory() -> str:
    return "input"


def get_output_directory() -> str:
    return "output"


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return list(folder_names_and_paths[folder_name][0])


def get_filename_list(folder_name: str) -> list[str]:
    paths, suffixes = folder_names_and_paths[folder_name]
    found = (file.relative_to(path) for path in paths for file in Path(path).rglob("*") if file.is_file())
    return sorted({str(file) for file in found if not suffixes or file.suffix.lower() in suffixes})


def get_full_path(folder_name: str, filename: str) -> str | None:
    for path in get_folder_paths(folder_name):
        if Path(path, filename).is_file():
            return str(Path(path, filename))
    return None

"""Weights stored in 8 bits: the numbers that were meant, what they cost, and who opens the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from animatediff.bundled import bundled_path, motion_module_path, set_path
from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.base.unet import save_image_model
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.motion import load_motion_module
from animatediff.weights.sparsectrl import load_sparsectrl
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from animatediff.weights.storage.folders import SHARED_WITH, read_json
from recipes.bundled.eight_bits import UNET_FILE, megabytes, round_file, rounded
from recipes.bundled.export import main

FLOAT8 = torch.float8_e4m3fn
OFF_GRID = 1.03
"""A factor that takes weights from numbers that float8 has to others, whatever the files that ship are stored in."""


def wide(name: str, tensor: Tensor) -> Tensor:
    factor = OFF_GRID if tensor.ndim in (2, 4) and name.endswith("weight") else 1
    return (tensor.float() * factor).half()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled model and set in 16 bits, each part whole, and the same as `--only-store` leaves it."""
    full, small = (tmp_path_factory.mktemp(name) for name in ("full", "small"))
    shutil.copytree(bundled_path(), full / "model")
    shutil.copytree(set_path(), full / "set")
    shutil.copy(motion_module_path(), full / "motion.safetensors")
    neon = full / "set" / "neon"
    for name in ("vae", "text_encoder"):
        shutil.copytree(bundled_path() / name, neon / name, dirs_exist_ok=True)
    index = {key: value for key, value in read_json(neon / "model_index.json").items() if key != SHARED_WITH}
    (neon / "model_index.json").write_text(json.dumps(index))
    sparse = (full / "set").glob("sparsectrl_*")
    for file in (full / "model" / UNET_FILE, neon / UNET_FILE, full / "motion.safetensors", *sparse):
        header = read_header(file)
        save_tensors(file, {key: wide(key, value) for key, value in load_tensors(header).items()}, header.metadata)
    shutil.copytree(full, small, dirs_exist_ok=True)
    places = ("--model", str(small / "model"), "--motion", str(small / "motion.safetensors"))
    main(["--only-store", *places, "--set-folder", str(small / "set")])
    return full, small


def pipeline(folder: Path, model: str = "model") -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(folder / model, torch_dtype="float32")
    pipe.load_motion_module(folder / "motion.safetensors")
    return pipe


def test_matrices_and_kernels_are_rounded_to_the_nearest_number_and_nothing_else(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    kernel = torch.randn(16, 8, 3, 3, generator=draw) * 0.05
    given = {
        "mid_block.conv.weight": kernel,
        "conv_out.weight": kernel,
        "up_blocks.2.motion_modules.0.proj_in.weight": kernel[..., 0, 0],
        "mid_block.norm.weight": kernel[:, 0, 0, 0],
        "mid_block.pos_encoder.pe": kernel[None, :, :, 0, 0],
        "mid_block.faint.weight": kernel * 1e-4,
        "mid_block.large.weight": kernel * 1e5,
        "mid_block.nought.weight": torch.zeros_like(kernel),
    }
    file = tmp_path / "a.safetensors"
    save_tensors(file, given, {"word": "kept"})
    round_file(file)
    found = load_tensors(file)
    assert {key for key, value in found.items() if value.dtype == FLOAT8} == {"mid_block.conv.weight"}
    assert torch.equal(found["mid_block.conv.weight"].float(), kernel.to(FLOAT8).float())
    assert all(torch.equal(found[key], value.half()) for key, value in given.items() if found[key].dtype != FLOAT8)
    assert read_header(file).metadata == {"word": "kept"}
    error = (load_tensors(file, dtype=torch.float32)["mid_block.conv.weight"] - kernel).abs()
    assert (error <= (kernel.abs() / 16).clamp(min=2**-10)).all(), "half a step: 4 significant bits, or 2^-9 below 2^-6"
    assert (error.flatten(1).amax(1) <= kernel.abs().flatten(1).amax(1) / 16).all()
    once = file.read_bytes()
    round_file(file)
    assert file.read_bytes() == once, "what is rounded stays"


def test_the_files_take_two_thirds(folders: tuple[Path, Path]) -> None:
    full, small = map(megabytes, folders)
    assert small < 40 and small < 0.64 * full
    names = ("model", "motion.safetensors", "set/sparsectrl_rgb.safetensors", "set/neon")
    assert all(megabytes(folders[1] / name) < 0.66 * megabytes(folders[0] / name) for name in names)


def test_frames_are_those_of_16_bits(folders: tuple[Path, Path]) -> None:
    def clip(folder: Path, model: str) -> Tensor:
        seed = torch.Generator().manual_seed(3)
        settings: dict[str, Any] = {"num_frames": 4, "num_inference_steps": 5, "output_type": "pt"}
        return pipeline(folder, model)("a fox moving right on a blue background", generator=seed, **settings).frames

    for model in ("model", "set/neon"):
        full, small = (clip(folder, model) for folder in folders)
        assert 10 * float(torch.log10((full - small).square().mean())) < -33, model


def test_every_loader_computes_with_the_numbers_of_the_file(folders: tuple[Path, Path]) -> None:
    _, small = folders
    stored = load_tensors(small / "model" / UNET_FILE, dtype=torch.float32)
    assert FLOAT8 in {value.dtype for value in load_tensors(small / "model" / UNET_FILE).values()}
    theirs: Any = UNet2DConditionModel.from_pretrained(small / "model" / "unet", torch_dtype=torch.float32)
    whole: Any = StableDiffusionPipeline.from_pretrained(small / "model", torch_dtype=torch.float32)
    for unet in (pipeline(small).base.unet, theirs, whole.unet):
        state = {key: value for key, value in unet.state_dict().items() if "motion_modules" not in key}
        assert state.keys() == stored.keys() and all(torch.equal(state[key], stored[key]) for key in stored)
    motion, _ = load_motion_module(small / "motion.safetensors")
    encoders = [load_sparsectrl(small / "set" / f"sparsectrl_{kind}.safetensors") for kind in ("rgb", "scribble")]
    for module in (motion, *encoders):  # in the file's number format, which is no format to compute in
        assert {value.dtype for value in module.parameters()} == {torch.float16}


def test_positions_are_not_rounded_with_the_weights(folders: tuple[Path, Path], tmp_path: Path) -> None:
    header = read_header(folders[1] / "motion.safetensors")
    tensors = {key: value for key, value in load_tensors(header).items() if not key.endswith(".pe")}
    save_tensors(tmp_path / "bare.safetensors", tensors, header.metadata)
    convert(tmp_path / "bare.safetensors", tmp_path / "adapter", to="diffusers")
    found = load_tensors(next((tmp_path / "adapter").glob("*.safetensors")))
    assert {value.dtype for key, value in found.items() if key.endswith(".pe")} == {torch.float16}


def test_a_model_that_shares_its_autoencoder_and_text_encoder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    full, small = (folder / "set" / "neon" for folder in folders)
    assert not (small / "vae").exists() and not (small / "text_encoder").exists()
    facts = describe(small)
    assert "missing" not in facts and "text_encoder and vae are those of the bundled model" in facts["evidence"]
    unet = pipeline(folders[1], "set/neon").base.unet.state_dict()
    unet = {key: value for key, value in unet.items() if "motion_modules" not in key}
    save_image_model(tmp_path / "trained", unet, small, metadata={})
    assert SHARED_WITH not in read_json(tmp_path / "trained" / "model_index.json")
    for name in ("vae", "text_encoder"):
        places = (tmp_path / "trained" / name, full / name)
        files = [sorted(path.read_bytes() for path in place.iterdir()) for place in places]
        assert files[0] == files[1], "what is trained from it is whole"
    index = read_json(small / "model_index.json")
    shutil.copytree(small, tmp_path / "odd")
    (tmp_path / "odd" / "model_index.json").write_text(json.dumps({**index, SHARED_WITH: "../../secret"}))
    with pytest.raises(UserError, match=r"its vae is that of '../../secret'; .* 'bundled' alone"):
        AnimateDiffPipeline.from_pretrained(tmp_path / "odd")


def test_float8_stays_as_it_is() -> None:
    weight = torch.tensor([[0.3, 0.02]]).to(FLOAT8)
    assert rounded("mid_block.a.weight", weight) is weight and rounded("conv_in.weight", weight) is weight

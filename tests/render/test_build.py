"""From a request to a pipeline that renders it: every kind of addition at once, with real (tiny) files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ldm_files
from support.close import relative
from support.paths import GOLDEN
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import AnimateRequest, build_request, load_config, load_result
from animatediff.render.models import ModelSpec, load_model
from animatediff.render.prepare import complete
from animatediff.render.render import render
from animatediff.render.renderer import Renderer, call_arguments
from animatediff.render.request_inputs import WeightRef
from animatediff.render.write import OneFile, RunFolder
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.load import lora_names
from animatediff.weights.motion import save_motion_module

V2 = GOLDEN / "v2"


def other_vae(folder: Path) -> Path:
    """The golden VAE with a darker last layer, as a file of its own."""
    state = load_file(V2 / "sd" / "vae" / "diffusion_pytorch_model.safetensors")
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] - 0.5
    save_file(state, folder / "dark_vae.safetensors")
    return folder / "dark_vae.safetensors"


def embedding(folder: Path) -> Path:
    save_file({"emb_params": torch.linspace(-2, 2, 64).view(2, 32)}, folder / "fox-style.safetensors")
    return folder / "fox-style.safetensors"


CONFIG = """
- pretrained_model_path: {golden}/sd
  motion_module: {golden}/motion_module.ckpt
  vae: dark_vae.safetensors
  embeddings: [{{path: fox-style.safetensors, token: "<fox>"}}]
  lora_model_path: {golden}/style_lora_kohya.safetensors
  lora_alpha: 0.7
  adapter_lora_path: {golden}/domain_adapter.ckpt
  adapter_lora_scale: 0.6
  motion_module_lora_configs:
    - {{path: "{golden}/motion_lora.ckpt", alpha: 0.9}}
  scheduler: euler
  clip_skip: 1
  dtype: float32
  steps: 2
  guidance_scale: 3
  seed: [7]
  L: 3
  W: 32
  H: 32
  prompt: ["a red <fox>"]
  n_prompt: ["blurry"]
"""


def request_of(folder: Path, text: str = CONFIG, **changes: Any) -> AnimateRequest:
    other_vae(folder)
    embedding(folder)
    (folder / "run.yaml").write_text(text.format(golden=V2))
    (request,) = load_config(folder / "run.yaml", changes)
    return request


def by_hand(folder: Path) -> np.ndarray:
    pipe = AnimateDiffPipeline.from_pretrained(V2 / "sd", torch_dtype="float32", vae=other_vae(folder))
    pipe.load_motion_module(V2 / "motion_module.ckpt")
    pipe.load_textual_inversion(embedding(folder), token="<fox>")
    names = [pipe.load_lora_weights(V2 / file) for file in ("domain_adapter.ckpt", "motion_lora.ckpt")]
    names.append(pipe.load_lora_weights(V2 / "style_lora_kohya.safetensors", adapter_name="style"))
    pipe.set_adapters(names, [0.6, 0.9, 0.7])
    pipe.set_scheduler("EulerDiscreteScheduler")
    out = pipe(
        "a red <fox>", negative_prompt="blurry", num_frames=3, height=32, width=32, num_inference_steps=2,
        guidance_scale=3, clip_skip=1, generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    return np.stack([np.asarray(frame) for frame in out.frames[0]])


def test_loras_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and brackets in the name of a file do not refuse it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my style (v2).safetensors"
    file.write_bytes((V2 / "style_lora_kohya.safetensors").read_bytes())
    request = request_of(tmp_path).model_copy(update={"loras": (WeightRef(path=str(file)),), "motion_loras": ()})
    pipe = load_model(ModelSpec.of(complete(request)))
    assert lora_names([pipe.unet]) == ["domain_adapter", "lora_0_my_style__v2_"]


def test_every_addition_of_a_configuration_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames as the same parts put together by hand; and each part changes them."""
    monkeypatch.chdir(tmp_path)
    renderer = Renderer()  # it keeps a model for what changes none of its parts
    request = request_of(tmp_path)

    def rendered(request: AnimateRequest, name: str) -> np.ndarray:
        (done,) = renderer.render([request], OneFile(name))
        return read_video(done.file)[0]

    frames = rendered(request, "all.png")
    for setting in ("clip_skip", "scheduler", "vae", "embeddings", "loras", "motion_loras", "domain_adapter"):
        default = AnimateRequest.model_fields[setting].default
        changed = rendered(request.model_copy(update={setting: default}), f"no_{setting}.png")
        assert relative(changed, frames) > 1e-2, f"{setting} changes nothing"
    assert np.array_equal(frames, by_hand(tmp_path))
    pipe = load_model(ModelSpec.of(complete(request)))
    assert len(lora_names([pipe.unet, pipe.text_encoder])) == 3
    assert pipe.tokenizer.convert_tokens_to_ids("<fox>_1") != pipe.tokenizer.unk_token_id


def test_a_result_of_many_parts_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = render(request_of(tmp_path, out="a.apng"))
    again = render(load_result("a.apng", {"out": "b.apng"}))
    assert np.array_equal(read_video("a.apng")[0], read_video("b.apng")[0])
    assert first.requests[0].seed == again.requests[0].seed == (7,)
    stored = json.loads(Path("a.apng.json").read_text())["request"]
    assert stored["fps"] == 8 and stored["dtype"] == "float32"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the bundled model without loss, with a random seed and nearly every setting left to the model."""
    file = tmp_path_factory.mktemp("exact") / "exact.png"
    done = CliRunner().invoke(
        app, ["animate", "a fox moving right", "--num-frames", "2", "--steps", "2", "--out", str(file)]
    )
    assert done.exit_code == 0, done.stderr
    return file


@pytest.mark.parametrize("target", ["fox.mp4", "fox.gif", "frames"])
def test_from_repeats_the_bundled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: Path, target: str
) -> None:
    """`--from FILE` gives the same frames, whatever kind of file stands between."""
    monkeypatch.chdir(tmp_path)
    for source, out in ((str(exact), target), (target, "again.png"), (f"{target}.json", "third.png")):
        done = CliRunner().invoke(app, ["animate", "--from", source, "--out", out])
        assert done.exit_code == 0, done.stderr
    frames = read_video(exact)[0]
    assert frames.shape == (2, 64, 64, 3)
    assert all(np.array_equal(read_video(name)[0], frames) for name in ("again.png", "third.png"))


def test_from_with_another_seed_gives_other_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    other = CliRunner().invoke(app, ["animate", "--from", str(exact), "--seed", "0", "--out", "other.png"])
    assert other.exit_code == 0 and relative(read_video("other.png")[0], read_video(exact)[0]) > 1e-2


def test_runs_that_agree_share_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built: list[ModelSpec] = []
    renderer = Renderer(load=lambda spec, after_part: built.append(spec) or load_model(spec, after_part))
    one = request_of(tmp_path)
    other = one.model_copy(update={"seed": (8,), "prompt": ("rain",)})
    third = one.model_copy(update={"motion_loras": ()})
    assert ModelSpec.of(one) == ModelSpec.of(other) != ModelSpec.of(third)
    done = renderer.render([one, other, third], RunFolder("run"))
    assert len(built) == 2
    assert [rendered.file.name for rendered in done] == ["0-a-red-fox.gif", "1-rain.gif", "2-a-red-fox.gif"]


WRONG = {
    "motion_module": ("motion_lora.ckpt", "MotionLoRA, not a motion module"),
    "loras": ("motion_module.ckpt", "motion module, not a LoRA"),
    "motion_loras": ("motion_module.ckpt", "motion module, not a MotionLoRA"),
    "domain_adapter": ("sd/vae/diffusion_pytorch_model.safetensors", "VAE, not a domain adapter"),
    "vae": ("style_lora_kohya.safetensors", "LoRA of an image model, not a VAE"),
    "model": ("motion_module.ckpt", "motion module, not a whole Stable Diffusion model"),
    "embeddings": ("case.json", "JSON text, not weights"),
}


@pytest.mark.parametrize("setting", WRONG)
def test_the_wrong_file_of_the_last_run_stops_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.chdir(tmp_path)
    renderer = Renderer(load=lambda *_: pytest.fail("a model was loaded"))
    name, message = WRONG[setting]
    good = request_of(tmp_path)
    bad = build_request({**good.stored(), setting: str(V2 / name)})
    with pytest.raises(UserError, match=message) as caught:
        renderer.render([good, bad], RunFolder("run"))
    assert str(V2 / name) in str(caught.value)
    assert not Path("samples").exists()


@pytest.mark.parametrize(("family", "base"), [("sdxl", "v1"), ("hotshot", "v3")])
def test_sdxl_module_on_sd15_is_told_before_loading(tmp_path: Path, family: str, base: str) -> None:
    suffix = "safetensors" if family == "hotshot" else "ckpt"
    request = build_request(
        {
            "prompt": "x",
            "model": str(GOLDEN / base / "sd"),
            "motion_module": str(GOLDEN / family / f"motion_module.{suffix}"),
        }
    )
    with pytest.raises(UserError, match=r"for SDXL base models, but the base model is SD 1\.x"):
        complete(request)


def single_files(folder: Path, generation: str) -> list[str]:
    """A tiny base model in one file without VAE and text encoder, those beside it, and a motion module: as options."""
    parts = ldm_files.models(generation)
    state = ldm_files.single_file(generation, parts)
    left_out = ("first_stage_model.", "cond_stage_model.", "conditioner.")
    save_file({key: value for key, value in state.items() if not key.startswith(left_out)}, folder / "sd.safetensors")
    options = ["--model", "sd.safetensors"]
    for name, part in parts.items():
        if name != "unet":
            part.save_pretrained(folder / name)
            options += [f"--{name.replace('_', '-')}", name]
    adapter = MotionAdapter.from_unet(parts["unet"])  # type: ignore[arg-type]
    save_motion_module(adapter, folder / "mm.safetensors", family=FAMILIES["custom"])
    return [*options, "--motion-module", "mm.safetensors"]


@pytest.mark.parametrize("generation", ["sd1", "sdxl"])
def test_single_file_with_its_parts_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: str) -> None:
    """From the command line, without network; and the message where a part is not given."""
    monkeypatch.chdir(tmp_path)
    options = single_files(tmp_path, generation)
    small = ["--steps", "1", "--num-frames", "2", "--width", "16", "--height", "16", "--seed", "1", "--out", "a.png"]
    done = CliRunner().invoke(app, ["animate", "a cat", *options, *small])
    assert done.exit_code == 0, done.stderr
    assert read_video("a.png")[0].shape == (2, 16, 16, 3)
    lacking = options.index("--text-encoder")
    del options[lacking : lacking + 2]
    done = CliRunner().invoke(app, ["animate", "a cat", *options, *small])
    assert done.exit_code == 2
    assert "has no text encoder" in done.stderr and "--text-encoder" in done.stderr


def test_no_negative_prompt_is_what_the_base_model_was_trained_with() -> None:
    """SDXL was trained with zeros in place of an empty prompt, which an empty text is not."""
    seen: list[Any] = []
    for text in ("", "blurry"):
        request = build_request({"prompt": "a", "negative_prompt": text, "seed": 1, "width": 8, "height": 8})
        seen.append(call_arguments(request)["negative_prompt"])
    assert seen == [None, "blurry"]

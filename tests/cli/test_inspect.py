"""`animatediff inspect`: several files of which some are bad, and folders of every layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.paths import GOLDEN
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.recognise import recognise

V1 = GOLDEN / "v1"


def inspect(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["inspect", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_bad_file_among_several(place: Path) -> None:
    (place / "check.py").write_text('"""A script."""\n')
    good = [str(V1 / "motion_lora.ckpt"), str(V1 / "motion_module.ckpt")]
    code, out, err = inspect(good[0], "check.py", good[1], "gone.ckpt")
    assert code == 2
    assert out.count("file: ") == 2 and all(name in out for name in good)
    lines = err.strip().splitlines()
    assert len(lines) == 2 and "check.py" in lines[0] and "gone.ckpt: no such file" in lines[1]
    code, out, _ = inspect("--json", good[0], "check.py", good[1])
    assert code == 2
    decoder, facts = json.JSONDecoder(), []
    while out.strip():
        value, end = decoder.raw_decode(out := out.strip())
        facts.append(value)
        out = out[end:]
    assert [sorted(entry)[:2] for entry in facts][1] == ["error", "file"]
    assert "not weights" in facts[1]["error"]
    assert [entry.get("kind") for entry in facts] == ["motion_lora", None, "motion_module"]
    assert inspect(*good)[0] == 0


def test_folders_of_one_model(place: Path) -> None:
    """A component, an embedding, a PEFT adapter, an image encoder: what is in them, whatever the file is called."""
    width = torch.zeros(2, 768)
    for name, tensors in (
        ("words/learned_embeds.safetensors", {"<cat-toy>": width}),
        ("peft/adapter_model.safetensors", {"base_model.model.mid_block.attentions.0.proj_in.lora_A.weight": width,
                                            "base_model.model.mid_block.attentions.0.proj_in.lora_B.weight": width.T}),
        ("encoder/model.safetensors", {"vision_model.embeddings.class_embedding": torch.zeros(8),
                                       "vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8)}),
        ("adapter/ip.safetensors", {"image_proj.proj.weight": torch.zeros(3072, 1024),
                                    "ip_adapter.1.to_k_ip.weight": torch.zeros(8, 768)}),
    ):  # fmt: skip
        (place / name).parent.mkdir()
        save_file({key: value.contiguous() for key, value in tensors.items()}, place / name)
    code, out, err = inspect("words", "peft", "encoder", "adapter")
    assert code == 0, err
    for line in (
        "words: <cat-toy>", "give it to: --embedding", "give it to: --lora, or load_lora_weights",
        "give it to: --ip-adapter-encoder (its folder)", "CLIP with projection_dim 1024 (ViT-H)",
        "made for:   Stable Diffusion 1.x",
    ):  # fmt: skip
        assert line in out, line


def test_a_folder_of_many_files_lists_them(place: Path) -> None:
    shutil.copy(V1 / "motion_lora.ckpt", "a.ckpt")
    (place / "deeper").mkdir()
    shutil.copy(V1 / "motion_module.ckpt", place / "deeper" / "b.ckpt")
    (place / "c.safetensors").write_text("Entry not found")
    (place / "deeper" / "back").symlink_to(place)
    code, out, err = inspect(".")
    assert code == 0, err
    assert "folder of 3 weight files" in out
    assert "a.ckpt: MotionLoRA; give it to --motion-lora" in out
    assert "deeper/b.ckpt: motion module; give it to --motion-module" in out
    assert "c.safetensors: " in out and "Entry not found" in out
    (place / "empty").mkdir()
    assert inspect("empty")[0] == 2


@pytest.mark.parametrize(
    ("index", "kind", "advice"),
    [
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}, "base_other", "need"),
        ({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}, "base_model", None),
        ({"_class_name": "StableDiffusionInpaintPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
         "base_unsuited", "text-to-image"),
    ],
)  # fmt: skip
def test_whole_models_in_folders(place: Path, index: dict, kind: str, advice: str | None) -> None:
    (place / "model" / "unet").mkdir(parents=True)
    (place / "model" / "model_index.json").write_text(json.dumps(index))
    channels = 9 if kind == "base_unsuited" else 4
    config = {"_class_name": "UNet2DConditionModel", "in_channels": channels, "cross_attention_dim": 768}
    (place / "model" / "unet" / "config.json").write_text(json.dumps(config))
    save_file({"conv_in.weight": torch.zeros(8, channels, 3, 3)}, place / "model" / "unet" / "model.safetensors")
    code, out, _ = inspect("--json", "model")
    facts = json.loads(out)
    assert (code, facts["kind"], "give_it_to" in facts) == (0, kind, advice is None)
    assert advice is None or advice in facts["what_to_do"]


def test_names_alone_are_looked_for_in_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("Motion_Module", "MotionLoRA"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    shutil.copy(GOLDEN / "v2" / "motion_module.ckpt", "models/Motion_Module/mm_sd_v15_v2.ckpt")
    shutil.copy(GOLDEN / "v2" / "motion_lora.ckpt", "models/MotionLoRA/orbit.ckpt")
    runner = CliRunner()
    for name, kind in (("mm_sd_v15_v2.ckpt", "motion_module"), ("orbit.ckpt", "motion_lora")):
        shown = runner.invoke(app, ["inspect", name, "--json"])
        assert (
            shown.exit_code == 0 and json.loads(shown.stdout)["kind"] == recognise(GOLDEN / "v2" / f"{kind}.ckpt").kind
        )
        made = runner.invoke(app, ["convert", name, name.replace("ckpt", "safetensors")])
        assert made.exit_code == 0, made.stderr
        assert recognise(tmp_path / name.replace("ckpt", "safetensors")).kind == kind
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v2" / "sd", torch_dtype="float32")
    assert pipe.load_motion_module("mm_sd_v15_v2.ckpt").name == "v2"
    shutil.copy("models/Motion_Module/mm_sd_v15_v2.ckpt", "models/Motion_Module/orbit.ckpt")
    both = runner.invoke(app, ["convert", "orbit.ckpt", "a.safetensors"])
    assert both.exit_code == 2 and "several times" in both.stderr and not (tmp_path / "a.safetensors").exists()
    gone = runner.invoke(app, ["convert", "gone.ckpt", "a.safetensors"])
    assert gone.exit_code == 2 and len(gone.stderr.strip().splitlines()) == 1

"""Base models from single files and folders: exact weights, no network, and files that do not fit."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support import ldm_files
from support.close import relative
from support.paths import GOLDEN
from support.weight_files import key_shapes
from torch import nn

from animatediff.errors import UserError
from animatediff.weights import hub
from animatediff.weights.base import ldm
from animatediff.weights.base import single_file as base
from animatediff.weights.base.components import empty_model, problems
from animatediff.weights.base.folder import load_base_folder
from animatediff.weights.base.generation import generation_of
from animatediff.weights.base.prediction import probe_prediction
from animatediff.weights.base.replacements import text_component, vae_component
from animatediff.weights.base.single_file import load_base, load_base_single_file, load_vae
from animatediff.weights.storage.files import Header, TensorInfo

GENERATIONS = ("sd1", "sd2", "sdxl")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module", params=GENERATIONS)
def tiny(request: pytest.FixtureRequest) -> tuple[str, dict[str, nn.Module], dict[str, torch.Tensor]]:
    parts = ldm_files.models(request.param)
    return request.param, parts, ldm_files.single_file(request.param, parts)


@pytest.fixture(scope="module")
def sd1() -> tuple[dict[str, nn.Module], dict[str, torch.Tensor]]:
    parts = ldm_files.models("sd1")
    return parts, ldm_files.single_file("sd1", parts)


def write(tmp_path: Path, state: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path


def same_weights(loaded: nn.Module, wanted: nn.Module) -> None:
    found, expected = loaded.state_dict(), wanted.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@torch.inference_mode()
def outputs(parts: dict[str, nn.Module]) -> list[torch.Tensor]:
    """What every component computes: weights in the right places with the wrong sizes or activations would show."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[49406, 320, 2368, 49407] + [0] * 4])
    text = parts["text_encoder"](ids, output_hidden_states=True)
    found = [parts["vae"].decode(noise).sample, text.last_hidden_state, text.hidden_states[-2]]
    added = {}
    if "text_encoder_2" in parts:
        second = parts["text_encoder_2"](ids, output_hidden_states=True)
        found += [second.text_embeds, second.hidden_states[-2]]
        added = {"added_cond_kwargs": {"text_embeds": second.text_embeds, "time_ids": torch.ones(1, 6)}}
        context = torch.cat([text.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    else:
        context = text.last_hidden_state
    return [*found, parts["unet"](noise, 7, encoder_hidden_states=context, **added).sample]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_every_generation_loads_exactly(tiny, suffix: str, tmp_path: Path) -> None:
    generation, parts, state = tiny
    loaded = load_base(write(tmp_path, state, "model" + suffix))
    names = {*parts, "tokenizer", "scheduler"} | ({"tokenizer_2"} if generation == "sdxl" else set())
    assert set(loaded) == names
    for name, model in parts.items():
        same_weights(loaded[name], model)
        assert not loaded[name].training
    for found, wanted in zip(outputs(loaded), outputs(parts), strict=True):
        assert relative(found, wanted) < 1e-5
    assert loaded["vae"].config.scaling_factor == (0.13025 if generation == "sdxl" else 0.18215)
    assert loaded["scheduler"].config.beta_schedule == "scaled_linear"


def test_dtype_is_the_files_or_the_one_asked_for(sd1, tmp_path: Path) -> None:
    parts, state = sd1
    half = {k: v.half() if v.is_floating_point() and not k.endswith("out.2.bias") else v for k, v in state.items()}
    path = write(tmp_path, half)
    for dtype, wanted in ((None, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)):
        loaded = load_base_single_file(path, dtype=dtype)
        for name in parts:
            assert {p.dtype for p in loaded[name].parameters()} == {wanted}


@pytest.mark.parametrize("dialect", ["2-D", "query", "diffusers", "bare LDM", "folder", "whole model"])
def test_vae_in_every_dialect_beside_a_file_without_one(sd1, dialect: str, tmp_path: Path) -> None:
    parts, state = sd1
    own = parts["vae"].state_dict()
    pruned = {key: value for key, value in state.items() if not key.startswith("first_stage_model.")}
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    if dialect == "folder":
        parts["vae"].save_pretrained(tmp_path / "vae")
        source = tmp_path / "vae"
    elif dialect == "query":
        renamed = {}
        for key, value in own.items():
            for new, old in early.items():
                key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
            renamed[key] = value
        source = write(tmp_path, renamed, "vae.pt")
    else:
        made = {
            "2-D": ldm_files.vae_keys(own, axes=2), "diffusers": own, "whole model": state,
            "bare LDM": ldm_files.vae_keys(own, prefix="") | {"loss.logvar": torch.zeros(1)},
        }[dialect]  # fmt: skip
        source = write(tmp_path, dict(made), "vae.safetensors")
    same_weights(load_vae(source), parts["vae"])
    path = write(tmp_path, pruned)
    same_weights(load_base_single_file(path, vae=source)["vae"], parts["vae"])
    assert load_base_single_file(path, vae=parts["vae"])["vae"] is parts["vae"]
    with pytest.raises(UserError, match=r"has no VAE .*give one with `vae`"):
        load_base_single_file(path)


def test_text_encoder_supplied(sd1, tmp_path: Path) -> None:
    parts, state = sd1
    path = write(tmp_path, {k: v for k, v in state.items() if not k.startswith("cond_stage_model.")})
    with pytest.raises(UserError, match=r"has no text encoder .*give one with `text_encoder` \("):
        load_base_single_file(path)
    parts["text_encoder"].save_pretrained(tmp_path / "text_encoder")
    for source in (
        tmp_path / "text_encoder",
        tmp_path / "text_encoder" / "model.safetensors",
        write(tmp_path, state, "a.ckpt"),
    ):
        same_weights(load_base_single_file(path, text_encoder=source)["text_encoder"], parts["text_encoder"])


def test_averaged_weights_only_when_asked_for(sd1, tmp_path: Path) -> None:
    parts, state = sd1
    unet = [key for key in state if key.startswith("model.diffusion_model.")]
    ema = {"model_ema." + key.removeprefix("model.").replace(".", ""): state[key] + 1 for key in unet}
    path = write(tmp_path, state | ema | {"model_ema.num_updates": torch.tensor(3)})
    same_weights(load_base_single_file(path)["unet"], parts["unet"])
    averaged = load_base_single_file(path, use_ema=True)["unet"].state_dict()
    assert all(torch.equal(averaged[key], value + 1) for key, value in parts["unet"].state_dict().items())
    with pytest.raises(UserError, match="averaged weights are missing"):
        load_base_single_file(write(tmp_path, state, "plain.safetensors"), use_ema=True)


def test_position_ids_are_not_needed(sd1, tmp_path: Path) -> None:
    parts, state = sd1
    path = write(tmp_path, {key: value for key, value in state.items() if "position_ids" not in key})
    same_weights(load_base_single_file(path)["text_encoder"], parts["text_encoder"])


def test_all_missing_keys_are_told_by_component_and_surplus_is_left_out_and_said(
    sd1, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts, state = sd1
    surplus = {"model.diffusion_model.extra.weight": torch.zeros(1), "first_stage_model.decoder.extra": torch.zeros(1)}
    loaded = load_base_single_file(write(tmp_path, state | surplus))
    same_weights(loaded["unet"], parts["unet"])
    assert "1 tensors that no UNet has are left out: model.diffusion_model.extra.weight" in caplog.text
    assert "1 tensors that no VAE has are left out: first_stage_model.decoder.extra" in caplog.text
    broken = {
        k: v
        for k, v in state.items()
        if k not in ("model.diffusion_model.out.2.bias", "first_stage_model.quant_conv.bias")
    }
    broken["model.diffusion_model.out.2.weight"] = torch.zeros(4, 7, 3, 3)
    with pytest.raises(UserError) as caught:
        load_base_single_file(write(tmp_path, broken))
    message = str(caught.value)
    for part in ("unet: 1 tensors missing, first conv_out.bias", "vae: 1 tensors missing, first quant_conv.bias",
                 "unet: conv_out.weight has shape (4, 7, 3, 3), expected (4, 32, 3, 3)"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("channels", "message"), [(9, "inpainting"), (8, "image-editing"), (5, "depth-guided"), (6, "6 input channels")]
)
def test_models_with_other_inputs_are_refused(sd1, channels: int, message: str, tmp_path: Path) -> None:
    _, state = sd1
    changed = state | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)}
    with pytest.raises(UserError, match=message):
        load_base_single_file(write(tmp_path, changed))


def test_refiner_and_lone_unet_are_refused(sd1, tmp_path: Path) -> None:
    parts, _ = sd1
    sdxl = ldm_files.single_file("sdxl", ldm_files.models("sdxl"))
    refiner = {k.replace("embedders.1", "embedders.0"): v for k, v in sdxl.items() if "embedders.0" not in k}
    with pytest.raises(UserError, match="refiner"):
        load_base_single_file(write(tmp_path, refiner))
    with pytest.raises(UserError, match="only a UNet, in the diffusers layout"):
        load_base_single_file(write(tmp_path, dict(parts["unet"].state_dict()), "unet.safetensors"))
    newer = {"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}
    with pytest.raises(UserError, match="newer kind"):
        load_base_single_file(write(tmp_path, newer, "sd3.safetensors"))


class Guess(nn.Module):
    """Stands for a UNet: gives the noise back, or something the noise does not determine."""

    def __init__(self, *, noise: bool) -> None:
        super().__init__()
        self.noise, self.weight = noise, nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"in_channels": 4, "cross_attention_dim": 8})

    def forward(self, sample, timestep, *, encoder_hidden_states):
        picture = torch.linspace(-1, 1, sample.numel()).view_as(sample)
        return type("Output", (), {"sample": 0.9 * sample + 0.1 * picture if self.noise else picture + 0.07 * sample})


def test_what_sd2_predicts_is_found_out_or_told(tmp_path: Path) -> None:
    assert probe_prediction(Guess(noise=True), tmp_path) == "epsilon"  # type: ignore[arg-type]
    assert probe_prediction(Guess(noise=False), tmp_path) == "v_prediction"  # type: ignore[arg-type]
    state = ldm_files.single_file("sd2", ldm_files.models("sd2"))
    path = write(tmp_path, state)
    for wanted in ("epsilon", "v_prediction"):
        assert load_base_single_file(path, prediction_type=wanted)["scheduler"].config.prediction_type == wanted
    save_file(state, path, metadata={"modelspec.prediction_type": "epsilon"})
    assert load_base_single_file(path)["scheduler"].config.prediction_type == "epsilon"
    with pytest.raises(UserError, match="prediction_type"):
        load_base_single_file(path, prediction_type="noise")


def published(name: str) -> Header:
    shapes = key_shapes()[name]
    infos = {key: TensorInfo(tuple(shape), "float16") for key, shape in shapes.items()}
    return Header(path=Path(name), format="safetensors", size=0, tensors=infos, metadata={})


@pytest.mark.parametrize(
    ("name", "generation", "count", "unused"),
    [("sd15_single_file", "sd1", 1131, 1), ("sdxl_single_file", "sdxl", 2515, 2)],
)
def test_published_key_lists_at_full_size(name: str, generation: str, count: int, unused: int) -> None:
    """Every key is used but position_ids and OpenCLIP's logit_scale, and the sizes found are the shipped ones."""
    header = published(name)
    assert len(header.tensors) == count
    assert generation_of(header) == generation
    parts = {"unet": base._unet(header, generation, use_ema=False, config=None)}
    parts["vae"] = vae_component(header, None, generation=generation, config=None)
    for text in ldm.TEXT_PREFIXES[generation]:
        parts[text] = text_component(header, None, text, generation=generation, config=None)
    base._fit_time_ids(parts)
    for part in parts.values():
        assert part.config.items() >= base.shipped_config(generation, part.name).items()
        assert problems(part, empty_model(part.name, part.config)) == []
    used = {source.key for part in parts.values() for source in part.plan.values()}
    left = header.tensors.keys() - used
    assert len(left) == unused
    assert all(key.endswith(("position_ids", "logit_scale")) for key in left)


@pytest.mark.parametrize(("name", "generation"), [("sd15_single_file", "sd1"), ("sdxl_single_file", "sdxl")])
def test_names_agree_with_the_converters_of_diffusers(name: str, generation: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    tensors = {key: torch.empty(info.shape, device="meta") for key, info in published(name).tensors.items()}
    whole = {id(tensor): key for key, tensor in tensors.items()}
    unet, _ = ldm.unet_plan(ldm.strip(tensors, ldm.UNET_PREFIX))
    theirs = convert_ldm_unet_checkpoint(dict(tensors), base.shipped_config(generation, "unet"))
    assert {key: ldm.UNET_PREFIX + s.key for key, s in unet.items()} == {k: whole[id(v)] for k, v in theirs.items()}
    vae, _ = ldm.vae_plan(ldm.strip(tensors, ldm.VAE_PREFIX))
    theirs = convert_ldm_vae_checkpoint(dict(tensors), base.shipped_config(generation, "vae"))
    assert set(vae) == set(theirs)
    assert all(ldm.VAE_PREFIX + vae[k].key == whole[id(v)] for k, v in theirs.items() if id(v) in whole)


def test_tokenizers_are_clips() -> None:
    made = base.tokenizers("sdxl") | {
        "sd1": base.tokenizers("sd1")["tokenizer"],
        "sd2": base.tokenizers("sd2")["tokenizer"],
    }
    for name, tokenizer in made.items():
        assert len(tokenizer) == 49408
        assert tokenizer.model_max_length == 77
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        padding = 0 if name in ("sd2", "tokenizer_2") else 49407
        assert tokenizer("a", padding="max_length").input_ids == [49406, 320, 49407, *[padding] * 74]


def save_folder(folder: Path, parts: dict[str, nn.Module], **options: object) -> Path:
    from diffusers import StableDiffusionPipeline

    small = base.tokenizers("sd1")
    scheduler = base.scheduler("sd1", "epsilon")
    pipe = StableDiffusionPipeline(
        **parts,
        **small,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}, {"safe_serialization": False}])
def test_folders_of_every_vintage(sd1, options: dict, tmp_path: Path) -> None:
    parts, _ = sd1
    if options.get("safe_serialization") is False:
        folder = save_folder(tmp_path / "sd", parts)
        for file in list(folder.rglob("*.safetensors")):
            from safetensors.torch import load_file

            state = load_file(file)
            if file.parent.name == "text_encoder":
                state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
            torch.save(state, file.parent / ("pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"))
            file.unlink()
    else:
        folder = save_folder(tmp_path / "sd", parts, **options)
    loaded = load_base(folder)
    for name, model in parts.items():
        same_weights(loaded[name], model)
    assert loaded["tokenizer"]("a cat").input_ids == [49406, 320, 2368, 49407]
    assert loaded["scheduler"].config.prediction_type == "epsilon"


def test_broken_folders_are_told(sd1, tmp_path: Path) -> None:
    parts, _ = sd1
    folder = save_folder(tmp_path / "sd", parts)
    with pytest.raises(UserError, match="no such folder"):
        load_base_folder(tmp_path / "nothing")
    with pytest.raises(UserError, match="give the folder above"):
        load_base_folder(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "elsewhere")
    with pytest.raises(UserError, match=r"unet: no weights found .* only config\.json"):
        load_base_folder(folder)
    (folder / "elsewhere").rename(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "vae" / "config.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="not readable as JSON"):
        load_base_folder(folder)
    (folder / "vae").rename(folder / "vae_away")
    with pytest.raises(UserError, match=r"no folder vae/.*give one with `vae`"):
        load_base_folder(folder)
    same_weights(load_base_folder(folder, vae=parts["vae"])["unet"], parts["unet"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model_index\.json"):
        load_base(tmp_path / "empty")


def test_the_old_id_is_an_alias_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_hub

    asked: list[object] = []
    files = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
             "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin",
             "v1-5.ckpt"]  # fmt: skip
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo: asked.append(repo) or files)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, allow_patterns: asked.append(allow_patterns) or str(GOLDEN / "v1" / "sd"),
    )
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    hub._reported.clear()
    for _ in range(2):
        assert set(load_base("runwayml/stable-diffusion-v1-5", dtype=torch.float16)) >= {"unet", "vae"}
    assert asked[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert asked[1][-2:] == ["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin"]  # type: ignore[index]
    assert caplog.text.count("no longer on the hub") == 1

"""Tiny autoencoders (TAESD) in every layout that people have: equal frames, and one message for what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from support import ldm_files, tiny_models
from support.paths import GOLDEN
from torch import Tensor

from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.render import build_request
from animatediff.render.prepare import complete
from animatediff.weights.base.single_file import load_base, load_vae
from animatediff.weights.base.tiny_vae import load_tiny_vae, original_decoder, tiny_path
from animatediff.weights.inspect import describe
from animatediff.weights.recognise import recognise

SD = GOLDEN / "v3" / "sd"  # 2 pixels of a latent
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 2),
    "num_decoder_blocks": (2, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(**SMALL).eval()


def halves(vae: AutoencoderTiny) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and decoder in the names of TAESD's own files."""
    encoder = {name.removeprefix("layers."): value for name, value in vae.encoder.state_dict().items()}
    return encoder, original_decoder(vae.decoder.state_dict())


def written(vae: AutoencoderTiny, folder: Path, layout: str) -> Path:
    """A file or folder of the VAE in one of the layouts."""
    encoder, decoder = halves(vae)
    if layout == "diffusers folder":
        vae.save_pretrained(folder / "own")
        return folder / "own"
    if layout == "two pickles":
        torch.save(encoder, folder / "taesd_encoder.pth")
        torch.save(decoder, folder / "taesd_decoder.pth")
        return folder / "taesd_decoder.pth"
    if layout == "two files":
        save_file(encoder, folder / "taesd_encoder.safetensors")
        save_file(decoder, folder / "taesd_decoder.safetensors")
        return folder / "taesd_decoder.safetensors"
    prefix = {"ComfyUI's": "taesd_", "class": ""}.get(layout)
    state = dict(vae.state_dict())
    if prefix is not None:
        state = {f"{prefix}encoder.{name}": value for name, value in encoder.items()}
        state |= {f"{prefix}decoder.{name}": value for name, value in decoder.items()}
    if layout == "ComfyUI's":
        state |= {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    save_file(state, folder / "taesd.safetensors")
    return folder / "taesd.safetensors"


@torch.inference_mode()
@pytest.mark.parametrize(
    "layout", ["diffusers folder", "diffusers file", "two files", "two pickles", "class", "ComfyUI's"]
)
def test_every_layout_has_the_same_frames_and_latents(tmp_path: Path, tiny, layout: str, caplog) -> None:
    path = written(tiny, tmp_path, layout)
    latents, images = torch.randn(2, 4, 6, 6), torch.rand(2, 3, 12, 12)
    for vae in (load_vae(path), load_tiny_vae(path), load_base(SD, vae=f"tiny:{path}")["vae"]):
        assert torch.equal(vae.decode(latents).sample, tiny.decode(latents).sample)
        assert torch.equal(vae.encode(images).latents, tiny.encode(images).latents)
    assert not caplog.records, "nothing of the file is left out"


@torch.inference_mode()
def test_a_decoder_alone_decodes_and_says_what_encoding_takes(tmp_path: Path, tiny) -> None:
    save_file(halves(tiny)[1], tmp_path / "taesd_decoder.safetensors")
    vae = load_base(SD, vae=tmp_path / "taesd_decoder.safetensors")["vae"]
    latents = torch.randn(1, 4, 6, 6)
    assert torch.equal(decode_images(vae, latents), decode_images(tiny, latents))
    with pytest.raises(UserError, match=r"decoder alone.*taesd_encoder beside taesd_decoder"):
        encode_images(vae, torch.rand(1, 3, 12, 12), CPU)


def test_the_published_architecture_is_found_from_its_shapes(tmp_path: Path) -> None:
    published = AutoencoderTiny()
    path = written(published, tmp_path, "two files")
    found = load_vae(path)
    assert {name: value.shape for name, value in found.state_dict().items()} == {
        name: value.shape for name, value in published.state_dict().items()
    }
    assert found.config["block_out_channels"] == [64] * 4 or found.config["block_out_channels"] == (64,) * 4
    assert describe(path)["what"] == "decoder of a tiny VAE (TAESD)" and describe(path)["give_it_to"] == "`vae`"
    assert describe(tmp_path / "taesd_encoder.safetensors")["kind"] == "vae_tiny_encoder"


@pytest.mark.parametrize("own", [True, False])
def test_what_does_not_fit_is_refused_by_one_message(tmp_path: Path, tiny, own: bool) -> None:
    """By the check of files, and by the loader."""
    tiny_models.save_base(tmp_path / "sdxl.safetensors", "sdxl")
    _, decoder = halves(AutoencoderTiny())
    for name in ("taesd_decoder", "taesdxl_decoder", "mine"):
        save_file(decoder, tmp_path / f"{name}.safetensors")
    save_file(halves(tiny)[0], tmp_path / "encoder.safetensors")
    save_file({**decoder, "1.weight": torch.zeros(64, 16, 3, 3)}, tmp_path / "taef1_decoder.safetensors")
    sd, sdxl = str(SD), str(tmp_path / "sdxl.safetensors")
    cases = [
        (sd, "taesdxl_decoder", r"for SDXL, but the base model is Stable .*taesdxl_decoder\.\w+ is the name"),
        (sdxl, "taesd_decoder", r"for Stable Diffusion 1.x, but the base model is SDXL"),
        (sd, "taef1_decoder", "tiny VAE .TAESD. of another kind of model, such as SD 3 or Flux"),
        (sd, "encoder", "give the decoder of the same name"),
        (sd, "mine", "makes 8 pixels of a latent along each side, this model's own 2"),
    ]  # fmt: skip
    module = {"motion_module": str(GOLDEN / "v3" / "motion_module.ckpt")}
    for model, name, message in cases:
        vae = f"{'tiny:' if own else ''}{tmp_path / name}.safetensors"
        with pytest.raises(UserError, match=message):
            load_base(model, vae=vae)
        if model == sd and name != "mine":  # the last one takes the model's configuration
            with pytest.raises(UserError, match=message):
                complete(build_request({"prompt": "x", "model": model, "vae": vae, **module}))
    assert load_base(sdxl, vae=tmp_path / "mine.safetensors")["vae"].config["latent_channels"] == 4


def test_tiny_says_that_the_vae_is_a_tiny_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AutoencoderKL, not a tiny VAE .*leave `tiny:` out"):
        load_base(SD, vae=f"tiny:{SD / 'vae'}")
    whole = ldm_files.vae_keys(ldm_files.models("sd1")["vae"].state_dict())
    save_file({name: value.contiguous() for name, value in whole.items()}, tmp_path / "vae.safetensors")
    assert recognise(tmp_path / "vae.safetensors").kind == "vae"
    with pytest.raises(UserError, match=r"a VAE, not a tiny VAE .*leave `tiny:` out"):
        load_base(SD, vae=f"tiny:{tmp_path / 'vae.safetensors'}")
    with pytest.raises(
        UserError, match=r"tiny:taes.*did you mean|no such file or folder, here or in models/vae_approx"
    ):
        load_base(SD, vae="tiny:no_such")


def test_files_in_vae_approx_are_found_by_name(tmp_path: Path, tiny) -> None:
    folder = tmp_path / "models" / "vae_approx"
    folder.mkdir(parents=True)
    written(tiny, folder, "two pickles")
    roots = Roots(models=(tmp_path / "models",))
    wanted = folder / "taesd_decoder.pth"
    for name in ("tiny:taesd", "tiny:taesd_decoder", "tiny:taesd_decoder.pth", f"tiny:{wanted}"):
        assert tiny_path(name, roots) == wanted
    assert tiny_path("tiny:madebyollin/taesd", roots, lambda name: tmp_path / name) == tmp_path / "madebyollin/taesd"
    with pytest.raises(UserError, match=r"tiny:taesdd: no such file.*did you mean"):
        tiny_path("tiny:taesdd", roots)
    request = build_request(
        {"prompt": "x", "model": str(SD), "vae": "tiny:taesd", "motion_module": str(GOLDEN / "v3/motion_module.ckpt")}
    )
    assert complete(request, roots=roots).vae == str(wanted)

"""Golden cases in Forge's own UNet: run by the Python of Forge, with its folder; prints differences as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.paths import GOLDEN

FAMILIES = ("v1", "v2", "v3", "sdxl", "hotshot")


def main(root: Path) -> None:
    """For each family: difference from what the original computed, size of the motion, whether detaching restored."""
    sys.argv = [sys.argv[0], "--always-cpu", "--all-in-fp32", "--attention-pytorch"]
    sys.path += map(str, (root, root / "packages_3rdparty", root / "repositories" / "huggingface_guess"))
    print(json.dumps({family: compare(family) for family in FAMILIES}))


def compare(family: str) -> dict[str, Any]:
    """The UNet of a case without motion modules, with them, and without them again."""
    import torch
    from diffusers.models.embeddings import get_timestep_embedding
    from einops import rearrange
    from safetensors.torch import load_file

    from animatediff.motion.ldm import attach_ldm
    from animatediff.weights.motion import load_motion_module

    folder = GOLDEN / family
    unet = forge_unet(folder / ("sd/unet" if (folder / "sd").is_dir() else "unet"))
    adapter, _ = load_motion_module(next(folder.glob("motion_module.*")), dtype=torch.float32)
    tensors = load_file(folder / "expected.safetensors")
    num_frames = tensors["unet.sample"].shape[2]

    def each(name: str) -> torch.Tensor:
        return tensors[name].repeat_interleave(num_frames, 0)

    y = None
    if "unet.text_embeds" in tensors:
        ids = each("unet.time_ids")
        codes = get_timestep_embedding(ids.flatten(), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
        y = torch.cat([each("unet.text_embeds"), codes.reshape(len(ids), -1)], -1)
    x = rearrange(tensors["unet.sample"], "b c f h w -> (b f) c h w")
    context, timesteps = each("unet.encoder_hidden_states"), tensors["unet.timestep"].reshape(-1)[:1].repeat(len(x))

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return unet(x, timesteps, context=context, y=y, transformer_options={})

    before = run()
    attachment = attach_ldm(unet, adapter)
    attachment.frames.num_frames = num_frames
    found = run()
    attachment.detach()
    wanted = rearrange(tensors["unet.out"], "b c f h w -> (b f) c h w")
    return {
        "difference": float((found - wanted).abs().max()),
        "motion": float((found - before).abs().max()),
        "restored": torch.equal(run(), before),
    }


def forge_unet(folder: Path) -> Any:
    """Forge's UNet with the weights and the settings of one of diffusers."""
    import torch
    from backend.nn.unet import IntegratedUNet2DConditionModel  # pyright: ignore[reportMissingImports]
    from backend.operations import using_forge_operations  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    from support import ldm_files

    given = json.loads((folder / "config.json").read_text())
    widths, heads = given["block_out_channels"], given["attention_head_dim"]
    layers = given.get("transformer_layers_per_block", [1] * len(widths))
    depths = [depth if "Cross" in kind else 0 for depth, kind in zip(layers, given["down_block_types"], strict=True)]
    extra = given.get("projection_class_embeddings_input_dim")
    with using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        unet = IntegratedUNet2DConditionModel(
            in_channels=4, out_channels=4, model_channels=widths[0], num_res_blocks=[1] * len(widths),
            channel_mult=[width // widths[0] for width in widths], use_spatial_transformer=True,
            transformer_depth=depths, transformer_depth_output=[depth for depth in depths for _ in range(2)],
            transformer_depth_middle=layers[-1], context_dim=given["cross_attention_dim"],
            use_linear_in_transformer=given.get("use_linear_projection", False),
            num_heads=heads if isinstance(heads, int) else heads[-1], num_head_channels=-1,
            num_classes=None if extra is None else "sequential", adm_in_channels=extra,
        )  # fmt: skip
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    unet.load_state_dict(ldm_files.unet_keys(state, prefix=""))
    return unet.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

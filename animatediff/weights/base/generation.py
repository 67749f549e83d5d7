"""Base model version (SD 1.x, SD 2.x, SDXL) of a single file."""

from __future__ import annotations

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.model_configs import Generation
from animatediff.weights.storage.files import Header

LATENT_CHANNELS = 4
OTHER_INPUTS = {
    9: "an inpainting model (9 input channels: noise, mask and masked image)",
    8: "an image-editing model (8 input channels: noise and the image to change)",
    5: "a depth-guided model (5 input channels)",
    7: "an upscaler (7 input channels)",
}
NEWER = ("joint_blocks.", "double_blocks.", "context_refiner.", "x_embedder.", "t_block.")
"""First names in the transformers of SD 3, Flux and their kin."""
_CONV_IN, _LABEL = "input_blocks.0.0", "label_emb.0.0"


def generation_of(header: Header) -> Generation:
    """Recognise the Stable Diffusion of a single file, in LDM's or diffusers' names, by the structure of its UNet.

    Raises UserError that says which other model it is where it is not SD 1.x, SD 2.x or SDXL.
    """
    path, tensors = header.path, header.tensors
    prefix = ldm.unet_prefix(tensors)
    prefix = ldm.UNET_PREFIX if prefix is None else prefix
    names = ldm.strip(tensors, prefix)
    if any(name.startswith(NEWER) for name in names):
        raise UserError(
            f"{path}: a newer kind of model (SD 3, Flux or the like); only SD 1.x, SD 2.x and SDXL are supported"
        )
    first, label = ("conv_in", "add_embedding.linear_1") if ldm.in_diffusers_names(names) else (_CONV_IN, _LABEL)
    conv_in = tensors.get(f"{prefix}{first}.weight")
    if conv_in is None or len(conv_in.shape) != 4:
        raise UserError(f"{path}: no {prefix}{first}.weight: not a Stable Diffusion UNet")
    if (channels := conv_in.shape[1]) != LATENT_CHANNELS:
        what = OTHER_INPUTS.get(channels, f"a model with {channels} input channels")
        raise UserError(f"{path}: {what}; motion modules need a text-to-image base model with {LATENT_CHANNELS}")
    if any(name.startswith(label.partition(".")[0]) for name in names):
        refiner = any(key.startswith("conditioner.embedders.0.model.") for key in tensors)
        size = tensors.get(f"{prefix}{label}.weight")
        if refiner or (size is not None and size.shape[1] == 2560):  # 1280 of OpenCLIP + 5 sizes of 256
            raise UserError(f"{path}: the SDXL refiner, which has no motion module; give the SDXL base model")
        return "sdxl"
    projections = [tensors[prefix + name] for name in names if name.endswith(".proj_in.weight")]
    return "sd2" if projections and len(projections[0].shape) == 2 else "sd1"  # SD 2.x has linear projections

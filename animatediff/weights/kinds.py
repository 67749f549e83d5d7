"""Every kind of weight file that people have, and what to do with it: one table for `inspect`, pre-check and loaders.

How a kind is recognised stands in `kind_rules.py`; which settings take it, here. A setting refuses a file for its kind
exactly if the table does not list the setting there.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE_TITLES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
"""Kind of base model -> its name in messages."""
SHORT_TITLES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
"""Kind of base model -> its name inside of a longer sentence."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of weight file."""

    title: str
    """Its name in messages, without article."""
    settings: tuple[str, ...] = ()
    """Settings that take such a file, the usual one first."""
    method: str | None = None
    """Method of a pipeline that takes it."""
    instead: str | None = None
    """Where no setting takes it: what to do."""
    as_folder: bool = False
    """Whether the setting takes the folder around the file."""

    @property
    def advice(self) -> str:
        """What to do with such a file, for the end of a sentence."""
        if not self.settings:
            return "this version cannot run it" + (f"; {self.instead}" if self.instead else "")
        given = "its folder" if self.as_folder else "it"
        return f"give {given} to {self.taken_by}"

    @property
    def taken_by(self) -> str | None:
        """The setting, and the method of a pipeline, that takes such a file; None if none does."""
        if not self.settings:
            return None
        return f"`{self.settings[0]}`" + (f", or {self.method}" if self.method else "")


_LORAS = ("loras", "motion_loras", "domain_adapter")
_LOAD_LORA = "load_lora_weights"
_ONE_CONDITION = "take the ControlNet of the same condition (`controlnet`)"
_OTHER_MODEL = "it is for no Stable Diffusion 1.x, 2.x or XL model, and motion modules need one of these"
_FACE = "take an IP-Adapter that reads CLIP images, such as ip-adapter-plus-face (`ip_adapter`)"

KINDS: dict[str, Kind] = {
    # Motion
    "motion_module": Kind(title="motion module", settings=("motion_module",), method="load_motion_module"),
    "motion_lora": Kind(title="MotionLoRA", settings=("motion_loras", "loras", "domain_adapter"), method=_LOAD_LORA),
    "domain_adapter": Kind(
        title="domain adapter (LoRA of the image layers, original grammar)",
        settings=("domain_adapter", "loras", "motion_loras"),
        method=_LOAD_LORA,
    ),
    "sparsectrl": Kind(title="SparseCtrl encoder", settings=("sparsectrl",), method="load_sparsectrl"),
    "cameractrl": Kind(title="CameraCtrl model", settings=("camera_control",), method="load_camera_control"),
    "motionctrl": Kind(title="MotionCtrl module", instead="MotionLoRAs move the camera (`motion_loras`)"),
    "fancyvideo": Kind(title="FancyVideo module", instead="take another motion module (`motion_module`)"),
    "hellomeme": Kind(title="HelloMeme module", instead="take another motion module (`motion_module`)"),
    "video_unet": Kind(
        title="whole UNet of a video model of another kind", instead="take an image model and a motion module"
    ),
    # LoRAs
    "lora": Kind(title="LoRA of an image model", settings=_LORAS, method=_LOAD_LORA),
    "lora_unsupported": Kind(
        title="LoRA that cannot be loaded", instead="take a LoRA or LyCORIS of the same subject (`loras`)"
    ),
    "lora_other": Kind(title="LoRA of another kind of model", instead=_OTHER_MODEL),
    # Conditions
    "controlnet": Kind(title="ControlNet", settings=("controlnet",), method="load_controlnet"),
    "controlnet_union": Kind(title="ControlNet Union (several conditions in one)", instead=_ONE_CONDITION),
    "controlnet_xs": Kind(title="ControlNet-XS", instead=_ONE_CONDITION),
    "controlnet_lllite": Kind(title="ControlNet-LLLite", instead=_ONE_CONDITION),
    "control_lora": Kind(title="Control-LoRA (low-rank ControlNet)", instead=_ONE_CONDITION),
    "controlnet_other": Kind(title="ControlNet of another kind of model, such as Flux or SD 3", instead=_OTHER_MODEL),
    "controlnet_channels": Kind(title="ControlNet for conditions that are no RGB images", instead=_ONE_CONDITION),
    "brushnet": Kind(title="BrushNet", instead="inpainting has no option here; " + _ONE_CONDITION),
    "t2i_adapter": Kind(title="T2I-Adapter", instead=_ONE_CONDITION),
    "ip_adapter": Kind(title="IP-Adapter", settings=("ip_adapter",), method="load_ip_adapter_file"),
    "ip_adapter_faceid": Kind(title="IP-Adapter FaceID (reads face embeddings of insightface)", instead=_FACE),
    "ip_adapter_other": Kind(
        title="IP-Adapter of another kind",
        instead="take one of the published IP-Adapters for SD 1.5 or SDXL (`ip_adapter`)",
    ),
    "instantid": Kind(title="InstantID adapter (reads face embeddings of insightface)", instead=_FACE),
    "photomaker": Kind(title="PhotoMaker (identity encoder and LoRA in one)", instead=_FACE),
    "image_encoder": Kind(title="CLIP image encoder", settings=("ip_adapter_encoder",), as_folder=True),
    "image_encoder_other": Kind(
        title="image encoder of another kind than CLIP's in transformers' names",
        instead="IP-Adapters need the folder of the CLIP image encoder they were trained with (`ip_adapter_encoder`)",
    ),
    # Image models and their parts
    "base_model": Kind(
        title="whole Stable Diffusion model in one file",
        settings=("model", "vae", "text_encoder", "text_encoder_2"),
        method="from_single_file",
    ),
    "base_unsuited": Kind(
        title="Stable Diffusion model that motion modules do not fit",
        instead="give a text-to-image base model of Stable Diffusion 1.x, 2.x or XL (`model`)",
    ),
    "base_other": Kind(
        title="model of another kind than Stable Diffusion 1.x, 2.x or XL",
        instead="motion modules need a Stable Diffusion 1.x, 2.x or XL model (`model`)",
    ),
    "ema_only": Kind(
        title="averaged weights (EMA) of a Stable Diffusion model without the weights themselves",
        instead="give the whole file (`model`)",
    ),
    "unet": Kind(title="image UNet without text encoder and VAE", settings=("model",), method="from_single_file"),
    "vae": Kind(title="VAE", settings=("vae",)),
    "vae_other": Kind(title="VAE of another kind of model", instead="take one of 4 latent channels (`vae`)"),
    "vae_tiny": Kind(title="tiny VAE (TAESD)", settings=("vae",)),
    "vae_tiny_decoder": Kind(title="decoder of a tiny VAE (TAESD)", settings=("vae",)),
    "vae_tiny_encoder": Kind(
        title="encoder of a tiny VAE (TAESD)",
        instead="give the decoder of the same name (taesd_decoder, `vae`), which takes the encoder beside it along",
    ),
    "vae_tiny_other": Kind(
        title="tiny VAE (TAESD) of another kind of model, such as SD 3 or Flux",
        instead="take one of 4 latent channels, taesd or taesdxl (`vae`)",
    ),
    "vae_approx": Kind(
        title="approximation of a VAE for previews (VAE-approx)", instead="take a whole VAE (`vae`), or leave it out"
    ),
    "text_encoder": Kind(title="CLIP text encoder", settings=("text_encoder", "text_encoder_2")),
    "text_encoder_2": Kind(
        title="second text encoder of SDXL (OpenCLIP bigG)", settings=("text_encoder_2", "text_encoder")
    ),
    "text_encoder_other": Kind(title="text encoder or language model of another kind of model", instead=_OTHER_MODEL),
    "textual_inversion": Kind(title="textual inversion embedding", settings=("embeddings",)),
    "hypernetwork": Kind(title="hypernetwork", instead="take a LoRA of the same subject (`loras`)"),
    # Others that lie in the same folders
    "upscaler": Kind(title="image upscaler", settings=("upscaler",)),
    "face_restorer": Kind(title="face restoration model", instead="restore the rendered frames elsewhere"),
    "inpainter": Kind(title="inpainting model without text (LaMa)", instead="edit the rendered frames elsewhere"),
    "interpolator": Kind(
        title="frame interpolation model", instead="give the rendered clip to a program for interpolation"
    ),
    "annotator": Kind(
        title="model that makes conditions of images (pose, depth, edges, segments)",
        instead="make the control images with it elsewhere and give these",
    ),
    "detector": Kind(title="detector (YOLO or face recognition)", instead="no option of a clip needs one"),
    "training_state": Kind(
        title="state of a training run (optimizer, not only weights)",
        instead="give the weights that the run wrote beside it",
    ),
    "unknown": Kind(title="unknown kind of weights"),
}
"""Kind -> facts."""


def a(title: str) -> str:
    """`title` with the article that goes before it.

    >>> a("IP-Adapter"), a("averaged weights"), a("VAE")
    ('an IP-Adapter', 'averaged weights', 'a VAE')
    """
    if title.startswith(("averaged weights", "unknown")):
        return title
    return f"{'an' if title[0] in 'aeiouAEIO' else 'a'} {title}"

"""How kinds of weight files are recognised: rules on the names and shapes in a header, in the order they are tried.

The names are those that each kind's own code gives its tensors (`tests/weights/public_keys.json` lists them with their
sources). Kinds that take more than names and shapes (motion modules, base models, LoRAs) are in `recognise.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes along one axis of a tensor."""

    key: str
    """Pattern; the first key that it finds counts."""
    axis: int
    sizes: tuple[int, ...]
    num_axes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Names and shapes that make a file one of a kind."""

    kind: str
    has: tuple[str, ...]
    """Patterns, each of which some key must match."""
    lacks: tuple[str, ...] = ()
    """Patterns that no key may match."""
    shape: Sizes | None = None
    variant: str | None = None
    """Name within the kind."""
    dialect: str | None = None
    base: str | None = None
    """Kind of base model where that is sure; otherwise shapes are asked (`recognise.base_by_shapes`)."""


MOTION = r"^(unet\.)?(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(motion_modules|temporal_attentions)\.\d+\."
"""Motion modules, in every dialect."""
CONTROL = r"^(control_model\.)?"
CONTROLNET = (
    rf"{CONTROL}(zero_convs\.\d+\.|input_hint_block\.\d+\.|"
    r"controlnet_(down_blocks\.\d|mid_block\.|cond_embedding\.))|^control_model\."
)
_IP = r"^(ip_adapter|adapter_modules)\.\d+\.to_k_ip\.weight$"  # of the release, and of training
_PROJ = r"^image_proj(_model)?\."
_TEXT = (
    r"^(cond_stage_model\.(transformer|model)\.|conditioner\.embedders\.[01]\.(transformer|model)\.|"
    r"(clip_[lg]\.)?transformer\.|text_encoder(_2)?\.)?"
    r"(text_model\.)?(encoder\.layers\.\d+\.self_attn|transformer\.resblocks\.\d+\.attn)\."
)
_PARAMS = r"^(params(_ema)?\.|module\.|state_dict\.|model_state_dict\.)?"

_TINY_DECODER = r"^(vae\.)?((taesd_)?decoder\.)?"
_TINY_FIRST = rf"{_TINY_DECODER}(layers\.0|1)\.weight$"
"""First convolution of the decoder: after a clamp that is counted in TAESD's own names."""

FIRST: tuple[Rule, ...] = (  # before LoRAs, whose names some of these hold as well
    Rule(kind="training_state", has=(r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)$",)),
    Rule(kind="photomaker", has=(r"^id_encoder\.", r"^lora_weights\.")),
    Rule(kind="ip_adapter_other", has=(r"ip_adapter_double_stream_k_proj",), variant="Flux"),
    Rule(
        kind="ip_adapter_other",
        has=(_IP,),
        shape=Sizes(key=rf"{_PROJ}(perceiver_resampler\.)?layers\.0\.0\.to_out\.weight$", axis=0, sizes=(2048, 4096)),
        variant="Kolors",
    ),
    Rule(
        kind="instantid",
        has=(_IP, rf"{_PROJ}latents$"),
        shape=Sizes(key=rf"{_PROJ}proj_in\.weight$", axis=1, sizes=(512,)),
    ),
    Rule(kind="ip_adapter_faceid", has=(_IP, rf"{_PROJ}perceiver_resampler\."), variant="FaceID-Plus"),
    Rule(
        kind="ip_adapter_faceid",
        has=(r"^(ip_adapter|adapter_modules)\.\d+\.to_q_lora\.", rf"{_PROJ}proj\.0\.weight$"),
        lacks=(rf"{_PROJ}proj\.3\.",),
        variant="FaceID",
    ),
    Rule(
        kind="ip_adapter_faceid",
        has=(_IP, rf"{_PROJ}proj\.0\.weight$"),
        lacks=(rf"{_PROJ}proj\.3\.",),
        variant="FaceID portrait",
    ),
    Rule(kind="ip_adapter", has=(_IP, rf"{_PROJ}proj\.3\.weight$"), variant="full-face"),
    Rule(kind="ip_adapter", has=(_IP, rf"{_PROJ}latents$"), variant="plus"),
    Rule(kind="ip_adapter", has=(_IP, rf"{_PROJ}proj\.weight$"), variant="plain"),
    Rule(kind="ip_adapter_other", has=(_IP, _PROJ)),
    Rule(kind="controlnet_lllite", has=(r"^lllite_(unet|dit)_",)),
    Rule(kind="control_lora", has=(r"^lora_controlnet$",)),
    Rule(kind="control_lora", has=(r"\.lora_layer\.(down|up)\.", CONTROLNET), variant="CtrLoRA"),
    Rule(kind="control_lora", has=(r"\.(down|up)$", r"^(input_hint_block|zero_convs)\.0\.")),
    Rule(
        kind="motionctrl",
        has=(r"^(adapter\.)?body\.0\.(block1|in_conv)\.weight$",),
        shape=Sizes(key=r"^(adapter\.)?conv_in\.weight$", axis=1, sizes=(128,)),
        variant="object motion (OMCM)",
    ),
    Rule(
        kind="t2i_adapter",
        has=(r"^(adapter\.)?body\.\d+\.((resnets|body)\.\d+\.)?(block1|block2|in_conv)\.weight$",),
        lacks=(MOTION,),
    ),
    Rule(kind="hypernetwork", has=(r"^\d+\.[01]\.linear\d?\.",)),
)

CONTROLNETS: tuple[Rule, ...] = (
    Rule(
        kind="controlnet_other", has=(r"^(controlnet_blocks\.\d|controlnet_x_embedder\.|controlnet_mode_embedder\.)",)
    ),
    Rule(
        kind="controlnet_other",
        has=(CONTROLNET, r"temporal_res_block|time_mix_blocks|time_stack|temporal_transformer_blocks"),
        variant="Stable Video Diffusion",
    ),
    Rule(
        kind="controlnet_union",
        has=(rf"{CONTROL}(task_embedding$|control_add_embedding\.|spatial_ch_projs\.|transformer_layes\.)",),
        shape=Sizes(key=r"task_embedding$", axis=0, sizes=(8,)),
        variant="ProMax",
    ),
    Rule(
        kind="controlnet_union",
        has=(rf"{CONTROL}(task_embedding$|control_add_embedding\.|spatial_ch_projs\.|transformer_layes\.)",),
    ),
    Rule(
        kind="controlnet_xs",
        has=(
            rf"{CONTROL}(enc_zero_convs_(in|out)\.\d|dec_zero_convs_(in|out)\.\d|control_to_base_for_conv_in\.|"
            r"(down_blocks\.\d+|mid_block)\.(ctrl_to_base|base_to_ctrl|control_to_base|base_to_control)[._]|scale_list\.)"
            r"|\.(base_to_ctrl|ctrl_to_base)\.\d",
        ),
    ),
    Rule(kind="sparsectrl", has=(r"^controlnet_cond_embedding\.conv_in\.weight$", MOTION), variant="scribble"),
    Rule(kind="sparsectrl", has=(r"^controlnet_cond_embedding\.weight$", MOTION), variant="rgb"),
    Rule(
        kind="sparsectrl",
        has=(r"^input_hint_block\.2\.weight$", r"^zero_convs\.", MOTION),
        variant="scribble",
        dialect="ldm",
    ),
    Rule(
        kind="sparsectrl",
        has=(r"^input_hint_block\.0\.weight$", r"^zero_convs\.", MOTION),
        variant="rgb",
        dialect="ldm",
    ),
    Rule(kind="brushnet", has=(r"^brushnet_(down_blocks|mid_block|up_blocks)\.",)),
    Rule(
        kind="controlnet_channels",
        has=(CONTROLNET,),
        shape=Sizes(
            key=rf"{CONTROL}(input_hint_block\.0|controlnet_cond_embedding\.conv_in)\.weight$",
            axis=1,
            sizes=(1, 2, 4, 5, 6, 7, 8, 9, 12, 16),
        ),
    ),
    Rule(kind="controlnet", has=(r"^difference$", CONTROLNET), variant="difference to a base model"),
    Rule(kind="controlnet", has=(CONTROLNET,)),
)

RELATIVES: tuple[Rule, ...] = (  # of motion modules
    Rule(
        kind="video_unet",
        has=(r"^(unet\.)?(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(temp_convs|temp_attentions)\.\d+\.",),
    ),
    Rule(kind="cameractrl", has=(r"(^|\.)processor\.qkv_merge\.|\.qkv_merge\.(weight|bias)$",)),
    Rule(kind="cameractrl", has=(r"^(pose_encoder_state_dict\.)?encoder_down_(conv|attention)_blocks\.",)),
    Rule(kind="motionctrl", has=(MOTION, r"\.cc_projection\."), variant="camera motion (CMCM)"),
    Rule(kind="motionctrl", has=(r"\.cc_projection\.(weight|bias)$",), variant="camera motion (CMCM)"),
    Rule(kind="fancyvideo", has=(MOTION, r"^(FancyVideo$|(fps|motion)_embedding\.linear\.)")),
    Rule(kind="hellomeme", has=(r"^reference_modules_(down|mid|up)\.",)),
)

_ROOT = r"^(model\.diffusion_model\.|diffusion_model\.|transformer\.|model\.|net\.)?"
OTHER_MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Stable Video Diffusion", (r"^(model\.diffusion_model\.|unet\.)?(down|up|mid|input|output|middle)_block.*\."
                                r"(time_stack|time_mix_blocks|temporal_transformer_blocks|temporal_res_block|"
                                r"time_mixer)\.",)),
    ("Stable Cascade", (rf"{_ROOT}(clip_txt_mapper|effnet_mapper\.|clip_txt_pooled_mapper|clip_mapper\.)",)),
    ("Stable Diffusion 3", (rf"{_ROOT}joint_blocks\.\d",)),
    ("AuraFlow", (rf"{_ROOT}(double_layers\.\d|joint_transformer_blocks\.\d)",)),
    ("Hunyuan Video", (rf"{_ROOT}(txt_in\.individual_token_refiner|double_blocks\.\d+\.img_attn_qkv|"
                       r"context_embedder\.token_refiner)",)),
    ("Hunyuan DiT", (rf"{_ROOT}(mlp_t5\.|blocks\.\d+\.default_modulation\.|text_embedder\.linear_1\.|"
                     r"blocks\.\d+\.skip_linear\.)",)),
    ("Chroma", (rf"{_ROOT}distilled_guidance_layer\.",)),
    ("Qwen-Image", (rf"{_ROOT}transformer_blocks\.\d+\.img_mod\.",)),
    ("Flux", (rf"{_ROOT}(double_blocks\.\d+\.img_attn\.|single_transformer_blocks\.\d)",)),
    ("Stable Diffusion 3", (rf"{_ROOT}transformer_blocks\.\d+\.attn\.add_k_proj\.", rf"{_ROOT}pos_embed\.proj\.")),
    ("HiDream", (rf"{_ROOT}double_stream_blocks\.\d",)),
    ("Lumina, Z-Image or OmniGen", (rf"{_ROOT}(context_refiner|noise_refiner)\.\d|^(model\.)?cap_embedder\.",)),
    ("Wan", (rf"{_ROOT}blocks\.\d+\.(cross_attn|attn2)\.", rf"{_ROOT}(patch_embedding|condition_embedder)\.")),
    ("Mochi", (rf"{_ROOT}(t5_yproj\.|blocks\.\d+\.mod_x\.)|{_ROOT}time_embed\.pooler\.",)),
    ("Cosmos", (rf"{_ROOT}(blocks\.block0\.blocks\.|blocks\.\d+\.adaln_modulation|learnable_pos_embed)",)),
    ("LTX Video", (rf"{_ROOT}(patchify_proj\.|transformer_blocks\.\d+\.scale_shift_table$)",
                   rf"{_ROOT}(patchify_proj\.|proj_in\.)", rf"{_ROOT}(adaln_single|time_embed)\.")),
    ("PixArt or Sana", (rf"{_ROOT}(y_embedder\.y_proj\.|t_block\.1\.|adaln_single\.|time_embed\.emb\.)",)),
    ("CogVideoX", (rf"{_ROOT}(patch_embed\.text_proj\.|transformer_blocks\.\d+\.norm1\.linear\.)",)),
    ("Stable Audio", (rf"{_ROOT}(transformer\.rotary_pos_emb|timestep_features\.|time_proj\.weight$)",)),
    ("Kolors", (r"^encoder_hid_proj\.weight$|^model\.diffusion_model\.encoder_hid_proj\.",)),
    ("another image or video transformer", (rf"{_ROOT}(transformer_blocks|single_blocks|double_blocks)\.0\.",)),
)  # fmt: skip
"""Image and video models of other kinds, by the names in their networks (all of a row's patterns)."""

OTHER_LORAS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Stable Diffusion 3", (r"joint_blocks[._]\d",)),
    ("AuraFlow", (r"joint_transformer_blocks[._]\d|double_layers[._]\d",)),
    (
        "Hunyuan Video",
        (r"double_blocks\.\d+\.img_attn_qkv|context_embedder[._]token_refiner|individual_token_refiner",),
    ),
    ("Chroma", (r"distilled_guidance_layer",)),
    ("Flux or Hunyuan Video", (r"double_blocks_\d+_img_attn_qkv",)),
    ("Flux", (r"double_blocks[._]\d|single_blocks[._]\d|single_transformer_blocks[._]\d",)),
    ("Qwen-Image", (r"transformer_blocks[._]\d+[._](img_mod|img_mlp|txt_mlp)",)),
    ("Stable Diffusion 3 or the like", (r"transformer_blocks[._]\d+[._]attn[._]",)),
    ("HiDream", (r"double_stream_blocks[._]\d",)),
    (
        "Lumina or Z-Image",
        (r"(context_refiner|noise_refiner)[._]\d|(^|[._])layers[._]\d+[._](attention|feed_forward)[._]",),
    ),
    ("Wan", (r"(^|\.|^lora_unet_|^lycoris_)blocks[._]\d+[._](cross_attn|self_attn|attn1|attn2)[._]",)),
    ("Hunyuan DiT", (r"(^|\.|^lora_unet_|^lycoris_)blocks[._]\d+[._](mlp|attn)",)),
    ("LTX Video or PixArt", (r"(^|[._])transformer_blocks[._]\d+[._](attn1|attn2|ff)[._]",)),
)
"""The same of LoRAs, whose names may have underscores for dots; asked where none is of Stable Diffusion's UNet."""
UNET_PARTS = r"(down_blocks|up_blocks|input_blocks|output_blocks)[._]\d|(mid_block|middle_block)[._]"
OTHER_UNETS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Stable Cascade", (r"^lora_prior_",)),
    ("another video model", (r"temporal_transformer_blocks|temp_convs|temp_attentions|time_stack|time_mix_blocks",)),
)
"""LoRAs of models whose blocks have the names of Stable Diffusion's UNet; asked first."""
TEXT_PARTS = r"(text_model|text_encoder|text_encoders|lora_te\d?|te\d?)[._]|^text_projection"

LOW_RANK = r"(_lora\.|\.lora[_.]|lora_linear_layer\.)(down|up|A|B)\b"
LORA = (
    r"_lora\.|\.lora[_.]|lora_(down|up|mid|A|B)\b|^lora_(unet|te\d?|prior_\w+|transformer)_|^(oft|boft)_unet_|^lycoris_|\.hada_w\d|"
    r"\.lokr_w\d|\.oft_(blocks|diag|R|r)\b|\.boft_[RS]\b|\.dora_scale|\.on_input$|\.diff(_b)?$|"
    r"\.w_norm$|\.ia3_l\b|\.vera_lambda|^(unet|text_encoder):\d+:(up|down)$|^bundle_emb\."
)
"""Changes to a model, of low rank or otherwise."""
LAST: tuple[Rule, ...] = (
    Rule(kind="ema_only", has=(r"^model_ema\.diffusion_model",), dialect="original"),
    Rule(kind="face_restorer", has=(rf"{_PARAMS}(toRGB\.0\.weight|stylegan_decoder\.|toRGB\.conv)",), variant="GFPGAN"),
    Rule(
        kind="face_restorer",
        has=(rf"{_PARAMS}(fuse_convs_dict\.|ft_layers\.\d+\.self_attn\.)",),
        variant="CodeFormer",
    ),
    Rule(
        kind="face_restorer",
        has=(rf"{_PARAMS}(vqvae\.)?quantize\.embedding\.weight$", rf"{_PARAMS}(vqvae\.)?encoder\.conv_in\.weight$"),
        variant="RestoreFormer or another VQ model",
    ),
    # transformers' and OpenCLIP's text and image encoders
    Rule(
        kind="text_encoder_other",
        has=(r"(^|\.)encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight$",),
        variant="T5",
    ),
    Rule(
        kind="text_encoder_other",
        has=(r"^(model\.|language_model\.|model\.language_model\.)*layers\.\d+\.self_attn\.q_proj\.weight$",),
        variant="language model",
    ),
    Rule(kind="annotator", has=(r"^(sam_)?mask_decoder\.", r"^image_encoder\."), variant="segments (SAM)"),
    Rule(
        kind="image_encoder",
        has=(r"^(vision_model\.)?embeddings\.class_embedding$",),
        lacks=(r"(^|\.)token_embedding\.weight$",),
    ),
    Rule(
        kind="image_encoder_other",
        has=(r"^(vision_model\.)?embeddings\.patch_embedding\.weight$|^visual\.(class_embedding|conv1\.)",),
        lacks=(r"(^|\.)token_embedding\.weight$",),
    ),
    Rule(
        kind="text_encoder_2",
        has=(_TEXT, r"(^|\.)token_embedding\.weight$"),
        shape=Sizes(key=r"(token_embedding\.weight)$", axis=1, sizes=(1280,)),
        base="sdxl",
    ),
    Rule(kind="text_encoder", has=(_TEXT, r"(^|\.)token_embedding\.weight$")),
    # VAEs
    Rule(
        kind="vae_tiny_other",
        has=(rf"{_TINY_DECODER}(layers\.2|3)\.conv\.0\.weight$", _TINY_FIRST),
        shape=Sizes(key=_TINY_FIRST, axis=1, sizes=(8, 12, 16, 32, 48, 64, 128)),
    ),
    Rule(
        kind="vae_tiny",
        has=(
            r"^(vae\.)?(taesd_)?decoder\.(layers\.)?\d+\.conv\.0\.weight$",
            r"^(vae\.)?(taesd_)?encoder\.(layers\.)?\d+\.conv\.0\.weight$",
        ),
    ),
    Rule(kind="vae_tiny_decoder", has=(rf"{_TINY_DECODER}(layers\.2|3)\.conv\.0\.weight$", _TINY_FIRST)),
    Rule(
        kind="vae_tiny_encoder",
        has=(
            r"^(vae\.)?((taesd_)?encoder\.)?(layers\.)?1\.conv\.0\.weight$",
            r"^(vae\.)?((taesd_)?encoder\.)?(layers\.)?0\.weight$",
        ),
    ),
    Rule(
        kind="vae_approx",
        has=(r"^conv1\.weight$", r"^conv8\.weight$"),
        shape=Sizes(key=r"^conv8\.weight$", axis=0, sizes=(3,)),
    ),
    Rule(
        kind="vae_other",
        has=(r"^(encoder|decoder)\.(conv_in|conv1|middle\.\d|upsamples\.\d)\b.*weight$",),
        shape=Sizes(key=r"^(encoder|decoder)\.(conv_in|conv1)\.(conv\.)?weight$", axis=2, sizes=(1, 3), num_axes=5),
        variant="video",
    ),
    Rule(
        kind="vae_other",
        has=(r"^(first_stage_model\.|vae\.)?decoder\..*(time_conv_out|time_mixer|time_stack|time_conv)",),
    ),
    Rule(
        kind="vae_other",
        has=(r"^(first_stage_model\.|vae\.)?decoder\.conv_in\.(conv\.)?weight$",),
        shape=Sizes(
            key=r"^(first_stage_model\.|vae\.)?decoder\.conv_in\.(conv\.)?weight$",
            axis=1,
            sizes=(8, 12, 16, 32, 48, 64, 128),
        ),
    ),
    Rule(
        kind="vae",
        has=(
            r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|mid)(_block|_blocks|)\.(\d+\.)?"
            r"(block_1|block\.\d+|resnets\.\d+)\.norm1\.weight$",
        ),
    ),
    Rule(
        kind="vae_other",
        has=(r"^(vae\.)?(encoder|decoder)\.(conv_in|conv_out|block_in|down_blocks|up_blocks|up|down)\b",),
    ),
    # Others
    Rule(
        kind="annotator",
        has=(r"^(pretrained|scratch|depth_head\.scratch)\.(layer1_rn|refinenet1|output_conv|model\.)",),
        variant="depth (MiDaS, DPT)",
    ),
    Rule(kind="annotator", has=(r"^(model1_1\.)?Mconv1_stage\d",), variant="pose (OpenPose)"),
    Rule(
        kind="interpolator",
        has=(r"^(flownet\.)?block0\.conv0\.0\.0\.weight$", r"^(flownet\.)?block1\.conv0\."),
        variant="RIFE",
    ),
    Rule(kind="interpolator", has=(r"^decoder4\.", r"^decoder3\.", r"^encoder\."), variant="IFRNet or AMT"),
    Rule(
        kind="inpainter",
        has=(r"^(generator\.model|model\.model)\.\d+\.(ffc\.convl2l|bn_l\.running_mean|bn_l\.weight)",),
    ),
    Rule(
        kind="upscaler",
        has=(rf"{_PARAMS}(model\.1\.sub\.\d+\.RDB1\.|body\.\d+\.rdb1\.conv1\.|RRDB_trunk\.\d+\.RDB1\.)",),
        variant="ESRGAN",
    ),
    Rule(
        kind="upscaler",
        has=(
            rf"{_PARAMS}(layers\.\d+\.(residual_group\.|blocks\.0\.attn\.|swin1\.)|conv_first\.(1\.)?weight$)",
            rf"{_PARAMS}(conv_first|conv_last|patch_embed|before_RG|upsample)\.",
        ),
        variant="SwinIR, HAT, DAT or another transformer",
    ),
    Rule(kind="upscaler", has=(rf"{_PARAMS}unet1\.conv1\.conv\.0\.weight$", r"unet2\.conv1\."), variant="Real-CUGAN"),
    Rule(kind="upscaler", has=(rf"{_PARAMS}(conv_1\.sk\.weight|block_1\.c1_r\.)",), variant="SPAN"),
    Rule(kind="upscaler", has=(rf"{_PARAMS}(residual_layer\.0\.residual_layer\.0\.layer|feats\.1\.lk\.)",)),
    Rule(kind="upscaler", has=(rf"{_PARAMS}m_head\.0\.weight$", r"m_tail\.0\.weight$"), variant="SCUNet"),
    Rule(
        kind="upscaler",
        has=(rf"{_PARAMS}body\.0\.weight$", rf"{_PARAMS}body\.1\.weight$", rf"{_PARAMS}body\.2\.weight$"),
        shape=Sizes(key=rf"{_PARAMS}body\.0\.weight$", axis=1, sizes=(1, 3, 4, 12), num_axes=4),
        variant="Real-ESRGAN compact",
    ),
    Rule(
        kind="detector",
        has=(r"^(model\.)?(model\.)?\d+\.(conv|cv1\.conv|m\.0\.cv1\.conv|cv3\.0\.0\.conv|dfl\.conv)\.weight$",),
        variant="YOLO",
    ),
    Rule(
        kind="detector",
        has=(r"^(body\.stage1|fpn\.output1|ClassHead\.0|BboxHead\.0|backbone\.layer0\.conv1|input_layer\.0\.weight)",),
        variant="face recognition",
    ),
)

"""Training configurations: ours and the original's, and every mistake in them called by its name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT

from animatediff.errors import UserError
from animatediff.training.config import OLD_NAMES, TrainConfig
from animatediff.training.read import load_train_config

CONFIGS = ROOT / "configs" / "training"
OURS = """\
stage: motion
data:
  kind: sprites
  height: 64
  width: 64
steps: 10
"""
ORIGINAL: dict[str, Any] = {
    "image_finetune": False,
    "output_dir": "outputs",
    "pretrained_model_path": "models/StableDiffusion/stable-diffusion-v1-5",
    "unet_checkpoint_path": "image.ckpt",
    "unet_additional_kwargs": {
        "use_motion_module": True,
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_mid_block": False,
        "motion_module_type": "Vanilla",
        "motion_module_kwargs": {
            "num_attention_heads": 8,
            "num_transformer_block": 1,
            "attention_block_types": ["Temporal_Self", "Temporal_Self"],
            "temporal_position_encoding": True,
            "temporal_position_encoding_max_len": 24,
            "temporal_attention_dim_div": 1,
            "zero_initialize": True,
        },
    },
    "noise_scheduler_kwargs": {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "linear",
        "steps_offset": 1,
        "clip_sample": False,
    },
    "train_data": {
        "csv_path": "results_2M_train.csv",
        "video_folder": "videos",
        "sample_size": 256,
        "sample_stride": 4,
        "sample_n_frames": 16,
    },
    "validation_data": {"prompts": ["A drone view of sea"], "num_inference_steps": 25, "guidance_scale": 8.0},
    "trainable_modules": ["motion_modules."],
    "learning_rate": 1.0e-4,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_train_epoch": -1,
    "max_train_steps": 100,
    "checkpointing_epochs": -1,
    "checkpointing_steps": 60,
    "validation_steps": 5000,
    "validation_steps_tuple": [2, 50],
    "global_seed": 42,
    "mixed_precision_training": True,
    "enable_xformers_memory_efficient_attention": True,
    "is_debug": False,
}


def write(folder: Path, content: str | dict[str, Any], name: str = "training.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_originals_keys_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "animatediff"):
        config = load_train_config(write(tmp_path, ORIGINAL))
    data = config.data
    assert (config.stage, config.steps, config.batch_size, config.gradient_accumulation_steps) == ("motion", 100, 4, 2)
    assert (data.kind, data.path, data.video_folder) == ("csv", "results_2M_train.csv", "videos")
    assert (data.height, data.width, data.num_frames, data.stride) == (256, 256, 16, 4)
    assert (config.max_positions, config.image_norm_over_frames, config.mid_block) == (24, True, False)
    assert (config.schedule, config.precision, config.caption_dropout) == ("linear", "fp16", 0.1)
    assert (config.validate_at, config.validate_every, config.save_every) == ((2, 50), 5000, 60)
    assert config.validation.prompts == ("A drone view of sea",) and config.validation.guidance_scale == 8
    assert (config.unet, config.out) == ("image.ckpt", str(Path("outputs") / "training"))
    said = [record.getMessage() for record in caplog.records]
    assert sum("enable_xformers_memory_efficient_attention has no effect" in text for text in said) == 1

    image = ORIGINAL | {"image_finetune": True, "trainable_modules": ["."], "cfg_random_null_text": False}
    config = load_train_config(write(tmp_path, image))
    assert (config.stage, config.image_layers, config.caption_dropout) == ("image", "full", 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, r"line \d+: unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ({"trainable_modules": ["attn2."]}, "choose a stage"),
        ({"max_train_epoch": 3}, "say max_train_steps"),
        ({"train_data": {"video_folder": "x"}}, "train_data is missing"),
        ({"train_data": {"csv_path": "a.csv", "sample_siz": 3}}, "did you mean 'sample_size'"),
        ({"noise_scheduler_kwargs": {"beta_schedule": "cosine"}}, "known are linear, scaled_linear"),
        ({"unet_additional_kwargs": {"motion_module_decoder_only": True}}, "only False is trained"),
    ],
)
def test_what_the_original_could_and_this_cannot_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_train_config(write(tmp_path, ORIGINAL | changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OURS + "lerning_rate: 1e-4\n", r"training.yaml, line 7: unknown setting 'lerning_rate'; did you mean 'lear"),
        (OURS.replace("height", "hight"), r"line 4: in data: unknown setting 'hight'; did you mean 'height'"),
        (OURS.replace("motion", "mottion"), r"line 1: stage='mottion': input should be 'adapter', 'motion'"),
        (OURS.replace("steps: 10\n", ""), "steps is missing"),
        (OURS + "warmup_steps: 10\n", "warmup_steps=10 must be less than steps=10"),
        (OURS + "ema: 1.5\n", "line 7: ema=1.5: input should be less than 1"),
        (OURS + "data: 3\n", "is given twice"),
        ("- 1\n", "expected settings"),
        (OURS.replace("  height: 64", "  num_frames: 40"), "more than max_positions=32"),
        (OURS.replace("  height: 64", "  num_frames: 1"), "needs clips of 2 or more"),
        (OURS.replace("motion", "adapter") + "curriculum_fraction: 0.5\n", "curriculum_fraction is for clips"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_train_config(write(tmp_path, text))


def test_settings_are_laid_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, OURS)
    config = load_train_config(path, ["steps=7", "data.height=32", "validation.prompts=[a, b]", "precision=no"])
    assert (config.steps, config.data.height, config.validation.prompts) == (7, 32, ("a", "b"))
    assert config.precision == "no"
    assert config.out == str(Path("outputs") / "training")
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        load_train_config(path, ["steps"])
    with pytest.raises(UserError, match="did you mean 'height'"):
        load_train_config(path, ["data.heigth=32"])


OLD = {
    "batch": ("batch_size", 2),
    "accumulation": ("gradient_accumulation_steps", 3),
    "warmup": ("warmup_steps", 4),
    "clip_norm": ("max_grad_norm", 0.5),
    "min_snr": ("snr_gamma", 5.0),
    "optimiser": ("optimizer", "adamw8bit"),
    "coarse_share": ("curriculum_fraction", 0.25),
    "coarse_stride": ("curriculum_stride", 3),
}


@pytest.mark.parametrize("in_file", [True, False])
def test_settings_work_under_their_old_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, in_file: bool) -> None:
    assert {old: new for old, (new, _) in OLD.items()} == OLD_NAMES
    given = {old: value for old, (_, value) in OLD.items()}
    path = write(tmp_path, OURS + (yaml.safe_dump(given) if in_file else ""))
    config = load_train_config(path, [] if in_file else [f"{old}={value}" for old, value in given.items()])
    assert {new: getattr(config, new) for new, _ in OLD.values()} == dict(OLD.values())
    said = [record.getMessage() for record in caplog.records]
    for old, (new, _) in OLD.items():
        assert [text for text in said if f"`{old}` is called `{new}` now" in text] == [
            f"{path}: `{old}` is called `{new}` now; the old name still works"
        ]


def test_an_old_name_over_a_new_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_train_config(write(tmp_path, OURS + "batch_size: 4\n"), ["batch=2"]).batch_size == 2
    assert load_train_config(write(tmp_path, OURS + "batch: 4\n"), ["batch_size=2"]).batch_size == 2
    caplog.clear()
    assert load_train_config(write(tmp_path, OURS + "batch: 4\n"), ["batch=2"]).batch_size == 2
    assert caplog.text.count("old name") == 1
    both = r"`batch` is the old name of `batch_size`, and both are given"
    with pytest.raises(UserError, match=f"training.yaml: {both}"):
        load_train_config(write(tmp_path, OURS + "batch: 4\nbatch_size: 4\n"))
    with pytest.raises(UserError, match=f"`settings`: {both}"):
        load_train_config(write(tmp_path, OURS), ["batch_size=4", "batch=2"])
    with pytest.raises(UserError, match=r"training.yaml, line 7: batch_size=0: input should be greater"):
        load_train_config(write(tmp_path, OURS + "batch: 0\n"))
    with pytest.raises(ValueError, match=both):
        TrainConfig.model_validate(yaml.safe_load(OURS) | {"batch": 1, "batch_size": 1})


def test_settings_of_another_stage_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_train_config(write(tmp_path, OURS + "rank: 8\n"))
    assert "rank does nothing in the stage motion" in caplog.text
    load_train_config(write(tmp_path, OURS + "start_from: mm.ckpt\nmid_block: true\nmax_positions: 32\n"))
    assert "mid_block has no effect: it is as in start_from=mm.ckpt" in caplog.text
    assert "max_positions has no effect" not in caplog.text


def test_files_are_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mm.safetensors").touch()
    (tmp_path / "clips").mkdir()
    text = "stage: motion_lora\nmotion_module: mm.safetensors\nsteps: 1\ndata:\n  path: clips\n"
    config = load_train_config(write(tmp_path, text))
    assert (config.motion_module, config.data.path) == (str(tmp_path / "mm.safetensors"), str(tmp_path / "clips"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_are_valid(path: Path) -> None:
    config = load_train_config(path)
    assert TrainConfig.model_validate(config.model_dump()) == config


def test_there_is_a_recipe_for_each_stage() -> None:
    stages = {load_train_config(path).stage for path in CONFIGS.glob("*.yaml")}
    assert stages == {"adapter", "motion", "motion_lora", "sparsectrl", "image"}
    assert load_train_config(CONFIGS / "bundled" / "camera.yaml").stage == "camera", "of clips with paths alone"


def original(tmp_path: Path, without: tuple[str, ...] = (), **changes: Any) -> TrainConfig:
    """A configuration of the original's keys, with some changed, and some of its training data."""
    return load_train_config(write(tmp_path, {k: v for k, v in (ORIGINAL | changes).items() if k not in without}))


def test_minus_one_is_off_in_the_originals_keys(tmp_path: Path) -> None:
    off = {
        "checkpointing_steps": -1, "validation_steps": -1, "lr_warmup_steps": -1, "max_grad_norm": -1, "ema_decay": -1,
        "num_workers": -1, "validation_steps_tuple": [-1], "checkpointing_epochs": -1, "global_seed": -1,
    }  # fmt: skip
    config = original(tmp_path, **off)
    assert (config.save_every, config.validate_every, config.warmup_steps, config.validate_at) == (0, 0, 0, ())
    assert (config.max_grad_norm, config.ema, config.workers, config.seed) == (None, None, None, 42)
    base = original(tmp_path, mixed_precision_training=False).model_dump()
    for key in (
        *("mixed_precision_training", "image_finetune", "use_adamw8bit", "noise_offset", "snr_gamma", "lora_rank"),
        *("lora_alpha", "logger_interval", "use_offset_noise", "use_wandb", "cache_latents", "sample_before_training"),
    ):
        for value in (-1, "false"):
            assert original(tmp_path, **{"mixed_precision_training": False, key: value}).model_dump() == base, key
    ours = load_train_config(write(tmp_path, OURS + "save_every: -1\nvalidate_every: -1\n"))
    assert (ours.save_every, ours.validate_every) == (0, 0)


@pytest.mark.parametrize(
    ("size", "wanted"), [(64, (64, 64)), ([64], (64, 64)), ([64, 96], (64, 96)), (None, (256, 256))]
)
def test_sizes_of_the_original(tmp_path: Path, size: Any, wanted: tuple[int, int]) -> None:
    config = original(tmp_path, train_data=ORIGINAL["train_data"] | {"sample_size": size})
    assert (config.data.height, config.data.width) == wanted


@pytest.mark.parametrize("size", [[], [1, 2, 3], "large", [64.5], {"height": 64}, [True]])
def test_other_sizes_are_named(tmp_path: Path, size: Any) -> None:
    with pytest.raises(UserError, match=r"train_data\.sample_size=.*expected one number, or \[height, width\]"):
        original(tmp_path, train_data=ORIGINAL["train_data"] | {"sample_size": size})


def test_epochs_are_counted_in_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """10 clips in batches of 2, accumulated twice, are 2.5 updates an epoch."""
    for index in range(10):
        (tmp_path / f"{index}.mp4").touch()
    (tmp_path / "list.csv").write_text("videoid,name,page_dir\n" + "".join(f"{i},up,x\n" for i in range(10)))
    data = {"csv_path": "list.csv", "video_folder": str(tmp_path), "sample_size": 64}
    lengths = {"max_train_steps": -1, "max_train_epoch": 5, "checkpointing_steps": -1, "checkpointing_epochs": 1}
    with caplog.at_level(logging.INFO, "animatediff"):
        config = original(tmp_path, train_data=data, train_batch_size=2, **lengths)
    assert (config.steps, config.save_every) == (13, 3)
    assert "by the clips of the data, max_train_steps=13, checkpointing_steps=3" in caplog.text
    path = tmp_path / "training.yaml"
    assert load_train_config(path, ["steps=7"]).steps == 7
    with pytest.raises(UserError, match="two lengths of one run: say max_train_steps"):
        original(tmp_path, train_data=data, max_train_epoch=5)
    with pytest.raises(UserError, match="max_train_steps=-1: say how many, or max_train_epoch"):
        original(tmp_path, train_data=data, max_train_steps=-1)
    (tmp_path / "0.tar").touch()
    with pytest.raises(UserError, match="epochs of shards are not known"):
        original(tmp_path, train_data={"path": str(tmp_path / "0.tar")}, max_train_steps=-1, max_train_epoch=2)


def test_keys_of_forks_are_settings_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = original(tmp_path, resume_ckpt="mm.ckpt", use_adamw8bit=True, use_offset_noise=True, snr_gamma=5)
    assert (config.stage, config.start_from, config.optimizer) == ("motion", "mm.ckpt", "adamw8bit")
    assert (config.noise_offset, config.snr_gamma, config.mid_block) == (0.1, 5, False)
    data = ORIGINAL["train_data"] | {"sample_fps": 8, "fps": -1}
    assert original(tmp_path, train_data=data, optimizer="adamw8bit").data.fps == 8
    with pytest.raises(UserError, match="train_data: fps and target_fps contradict each other"):
        original(tmp_path, train_data=data | {"fps": 12, "sample_fps": 0, "target_fps": 8})
    with pytest.raises(UserError, match=r"noise_offset=-0\.1: input should be greater"):
        load_train_config(write(tmp_path, OURS + "noise_offset: -0.1\n"))
    config = original(tmp_path, motion_module_path="x.ckpt", lora_rank=32, resume_ckpt="lora.safetensors")
    assert (config.stage, config.motion_module, config.rank) == ("motion_lora", "x.ckpt", 32)
    assert config.start_from == "lora.safetensors"
    noise = ORIGINAL["noise_scheduler_kwargs"] | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config = original(tmp_path, noise_scheduler_kwargs=noise)
    assert (config.prediction, config.zero_terminal_snr, config.schedule) == ("v_prediction", True, "linear")
    with pytest.raises(UserError, match=r"noise_scheduler_kwargs\.num_train_timesteps=500: only 1000"):
        original(tmp_path, noise_scheduler_kwargs=noise | {"num_train_timesteps": 500})
    with pytest.raises(UserError, match="noise_scheduler_kwargs: unknown setting 'predicton_type'; did you mean 'pred"):
        original(tmp_path, noise_scheduler_kwargs={"predicton_type": "epsilon"})
    with pytest.raises(UserError, match="unet_additional_kwargs: unknown setting 'motion_module_typ'"):
        original(tmp_path, unet_additional_kwargs={"motion_module_typ": "Vanilla"})
    with pytest.raises(UserError, match="resume_from_checkpoint='latest': the same command goes on"):
        original(tmp_path, resume_from_checkpoint="latest")
    with pytest.raises(UserError, match="resume_ckpt and motion_module_path are two names of one setting"):
        original(tmp_path, resume_ckpt="a.ckpt", motion_module_path="b.ckpt")
    with caplog.at_level(logging.INFO, "animatediff"):
        original(tmp_path, use_lion_optim=True, lora_unet_dropout=0.1, learning_rate_spatial=0)
    assert "use_lion_optim has no effect: the optimizer is AdamW" in caplog.text
    assert "lora_unet_dropout has no effect" in caplog.text and "learning_rate_spatial" not in caplog.text
    with pytest.raises(UserError, match="unknown setting 'resume_ckpt'; did you mean 'start_from'"):
        load_train_config(write(tmp_path, OURS + "resume_ckpt: x.ckpt\n"))


def test_the_forms_of_motion_director(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = {
        "path": "clips",
        "start_time": 0,
        "max_chunks": 1,
        "training_prompt": "a man",
        "validation_prompt": "a cat",
    }
    short = {
        "pretrained_model_path": "sd", "motion_module_path": "v3_sd15_mm.ckpt", "domain_adapter_path": "",
        "unet_checkpoint_path": "", "mode_type": "folder", "video": video, "save_name": "running", "simple_mode": True,
        "quality": "preferred", "training_config": "training.yaml",
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "animatediff"):
        config = load_train_config(write(tmp_path, short))
    assert (config.stage, config.rank, config.learning_rate, config.steps) == ("motion_lora", 32, 5e-4, 300)
    assert (config.data.kind, config.data.path, config.validation.prompts) == ("folder", "clips", ("a cat",))
    assert config.out == str(Path("outputs") / "running")
    assert "video.training_prompt has no effect" in caplog.text and "quality has no effect" in caplog.text
    with pytest.raises(UserError, match=r"single video 'clips'.*put it into a folder beside a \.txt"):
        load_train_config(write(tmp_path, short | {"mode_type": "single_video"}))
    (tmp_path / "a.mp4").touch()
    long = ORIGINAL | {
        "motion_module_path": "mm.ckpt", "domain_adapter_path": "adapter.ckpt", "lora_rank": 32, "lora_name": "dance",
        "dataset_types": ["folder"], "learning_rate_spatial": 1e-4, "use_lion_optim": True, "cache_latents": True,
        "max_train_epoch": 50, "max_train_steps": -1, "use_motion_lora_format": True, "gradient_checkpointing": True,
        "train_data": {"path": str(tmp_path), "sample_size": [320, 512], "width": 128, "height": 64, "fps": 0,
                       "manual_sample_size": False, "frame_step": 3, "n_sample_frames": 8, "sample_n_frames": 16,
                       "use_bucketing": False, "single_video_path": "", "max_chunks": 1, "sample_start_idx": 0},
        "validation_data": {"prompts": ["x"], "guidance_scale": 9, "spatial_scale": 0.5, "validation_seed": 44},
    }  # fmt: skip
    config = load_train_config(write(tmp_path, long))
    data = config.data
    assert (data.height, data.width, data.stride, data.num_frames, config.validation.seed) == (64, 128, 3, 8, 44)
    assert (config.domain_adapter and config.domain_adapter.path, config.steps) == ("adapter.ckpt", 7)
    assert (config.out, data.cache) == (str(Path("outputs") / "dance"), str(Path("outputs") / "cache"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batch_size": 0}, r"training.yaml, line \d+: train_batch_size=0: input should be greater"),
        ({"lr_warmup_steps": 100}, r"lr_warmup_steps=100 must be less than max_train_steps=100"),
        ({"train_data": ORIGINAL["train_data"] | {"sample_stride": "x"}}, r"line \d+: train_data\.sample_stride='x'"),
        ({"train_data": ORIGINAL["train_data"] | {"sample_n_frames": 30}},
         r"train_data\.sample_n_frames=30 is more than unet_additional_kwargs\..*_encoding_max_len=24"),
        ({"lr_scheduler": "sometimes"}, "lr_scheduler='sometimes': input should be"),
        ({"train_data": ORIGINAL["train_data"] | {"sample_size": 0}},
         r"^[^\n]*line \d+: train_data\.sample_size=0: input should be[^\n]*$"),
    ],
)  # fmt: skip
def test_messages_name_what_the_user_wrote(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        original(tmp_path, **changes)


def test_notes_name_what_the_user_wrote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "animatediff"):
        original(tmp_path, lora_alpha=4)
        original(tmp_path, lora_rank=4)
    said = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
    assert "lora_alpha does nothing in the stage motion" in said
    assert "unet_additional_kwargs has no effect: the file of the motion module says it" in said
    assert not [text for text in said if text.startswith(("alpha", "mid_block", "image_norm", "max_positions"))]

"""JSON files of animatediff-cli-prompt-travel and animatediff-cli: every key is carried out, or named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import run

from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.media.numbered import NumberedFrames
from animatediff.render import load_config, parse_config
from animatediff.render.read.travel_json import OF_THE_TOOL
from animatediff.sampling.schedulers import scheduler_name

CONTROLNET_ENTRY = {
    "enable": True, "use_preprocessor": True, "preprocessor": {"type": "softedge_pidsafe", "param": {}},
    "guess_mode": False, "controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0,
    "control_guidance_end": 1.0, "control_scale_list": [0.5, 0.4], "control_region_list": [],
}  # fmt: skip
TYPES = (
    *("tile", "lineart_anime", "ip2p", "openpose", "softedge", "shuffle", "depth", "canny", "inpaint", "lineart"),
    *("mlsd", "normalbae", "scribble", "seg", "mediapipe_face"),
)
EVERYTHING: dict[str, Any] = {
    "name": "simple", "path": "share/Stable-diffusion/some_v20.safetensors", "vae_path": "share/VAE/some.ckpt",
    "motion_module": "models/motion-module/mm.ckpt", "context_schedule": "uniform",
    "lcm_map": {"enable": True, "start_scale": 0.15, "end_scale": 0.75, "gradient_start": 0.2, "gradient_end": 0.75},
    "gradual_latent_hires_fix_map": {"enable": True, "scale": {"0": 0.5, "0.7": 1.0}, "reverse_steps": 5},
    "compile": True, "tensor_interpolation_slerp": False, "seed": [341774366206100, -1, -1],
    "scheduler": "k_dpmpp_sde", "steps": 40, "guidance_scale": 20, "unet_batch_size": 2, "clip_skip": 2,
    "prompt_fixed_ratio": 0.5, "head_prompt": "a spider", "tail_prompt": "teapot",
    "prompt_map": {"0": "smile", "8": "walking", "32": "running", "64": "sitting"},
    "n_prompt": ["(worst quality, low quality:1.4)", "blurry"], "is_single_prompt_mode": True, "is_v2": True,
    "lora_map": {"share/Lora/a.safetensors": 1.0}, "motion_lora_map": {"models/motion_lora/Zoom.ckpt": 0.5},
    "ip_adapter_map": {
        "enable": True, "input_image_dir": "", "prompt_fixed_ratio": 0.5, "save_input_image": True,
        "resized_to_square": False, "scale": 0.5, "is_full_face": False, "is_plus_face": False, "is_plus": True,
        "is_light": False,
    },
    "img2img_map": {
        "enable": True, "init_img_dir": "..\\stylize\\00_img2img", "save_init_image": True, "denoising_strength": 0.7,
    },
    "region_map": {
        "0": {
            "enable": True, "crop_generation_rate": 0.1, "mask_dir": "m", "save_mask": True, "is_init_img": False,
            "condition": {"head_prompt": "", "prompt_map": {"0": "a girl"}, "ip_adapter_map": {"enable": False}},
        },
        "background": {"is_init_img": True, "hint": "the root's"},
    },
    "controlnet_map": {
        "input_image_dir": "controlnet_image/test", "max_samples_on_vram": 200, "max_models_on_vram": 3,
        "save_detectmap": True, "preprocess_on_gpu": True, "is_loop": True,
        **{f"controlnet_{name}": CONTROLNET_ENTRY for name in TYPES},
        "qr_code_monster_v1": CONTROLNET_ENTRY, "qr_code_monster_v2": CONTROLNET_ENTRY,
        "animatediff_controlnet": CONTROLNET_ENTRY, "controlnet_ref": {"enable": True, "ref_image": "r.png"},
    },
    "upscale_config": {"scheduler": "ddim", "controlnet_tile": {"enable": True}},
    "stylize_config": {"original_video": {"path": "x.mp4"}}, "result": {"original_frames": "f"},
    "output": {"format": "mp4", "fps": 12, "encode_param": {"crf": 10}, "preview_steps": [10]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    return tmp_path


def load(data: Any, **overrides: Any) -> Any:
    """The one request of a file with this content."""
    Path("a.json").write_text(data if isinstance(data, str) else json.dumps(data))
    (request,) = load_config("a.json", overrides)
    return request


def colours(folder: str, **images: tuple[int, int, int]) -> None:
    Path(folder).mkdir(parents=True)
    for name, colour in images.items():
        Image.new("RGB", (32, 32), colour).save(f"{folder}/{name.strip('_')}.png")


def test_every_key_of_such_a_file_is_carried_out_or_named(caplog: pytest.LogCaptureFixture) -> None:
    request = load(EVERYTHING)
    assert {key for key in OF_THE_TOOL if key not in EVERYTHING} == {
        *("base", "prompt", "prompts", "n_prompts", "lora_alpha", "apply_lcm_lora", "lcm_lora_scale"),
    }
    assert request.stored() == {
        "model": "share/Stable-diffusion/some_v20.safetensors", "vae": "share/VAE/some.ckpt",
        "motion_module": "models/motion-module/mm.ckpt", "prompt": ["smile"], "prompt_travel": [{"8": "walking"}],
        "prompt_head": "a spider", "prompt_tail": "teapot", "negative_prompt": ["(worst quality, low quality:1.4)"],
        "seed": [341774366206100], "scheduler": "dpmpp_2s_karras", "steps": 40, "guidance_scale": 20.0, "clip_skip": 1,
        "loras": [{"path": "share/Lora/a.safetensors"}],
        "motion_loras": [{"path": "models/motion_lora/Zoom.ckpt", "scale": 0.5}], "fps": 12.0, "num_frames": 16,
    }  # fmt: skip
    assert request.name == "simple-some_v20"
    lines = {record.getMessage().removeprefix("a.json: ") for record in caplog.records}
    named = {
        "lcm_map": "an LCM-LoRA (`loras`)",
        "gradual_latent_hires_fix_map": "`upscale` renders the clip again",
        "compile": "changes no frame",
        "unet_batch_size": "changes no frame",
        "seed": "1 of 3 used",
        "n_prompt": "1 of 2 used",
        "scheduler": "k_dpmpp_sde is DPM++ 2S",
        "is_single_prompt_mode": "not supported",
        "is_v2": "not needed",
        "ip_adapter_map": "names no folder of images, so it is off",
        "img2img_map": "off for want of images",
        "region_map (0)": "regions are not supported",
        "region_map (background)": "its images are not kept",
        "controlnet_map": "its folder of images is missing (controlnet_image/test)",
        "controlnet_map (controlnet_ref)": "`ip_adapter`",
        "upscale_config": "`upscale`",
        "stylize_config": "`video`",
        "result": "changes no frame",
        "output (format)": "`out`",
        "output (encode_param)": "`quality`",
        "output (preview_steps)": "no files of previews",
    }
    for key, words in named.items():
        assert any(line.startswith(f"{key}: ") and words in line for line in lines), key
    assert any(line.startswith("prompt_map: texts beyond the clip of 16 frames") for line in lines)
    assert any("`num_frames` 65 has room for all" in line for line in lines)
    assert len(lines) == len(named) + 2 and len(caplog.records) == len(lines), "each once, and nothing else"


def test_a_length_decides_which_texts_are_in_the_clip(caplog: pytest.LogCaptureFixture) -> None:
    texts = {"0": "a", "8": "b", "32": "c"}
    assert load({"prompt_map": texts}, num_frames=33).prompt_of().texts == {0: "a", 8: "b", 32: "c"}
    assert "beyond" not in caplog.text
    assert load({"prompt_map": texts, "num_frames": 33}).num_frames == 33, "a setting of ours beside theirs"
    assert load({"prompt_map": texts}, num_frames=4).prompt_of() == "a"
    assert load({"prompt_map": {"8": "b", "32": "c"}}, num_frames=4).prompt_of() == "b"
    assert "prompt_interpolation" not in load({"prompt_map": {"0": "a"}, "prompt_fixed_ratio": 0.2}).stored()


def test_files_of_animatediff_cli_give_a_clip_for_each_prompt() -> None:
    data = {
        "name": "Tusun", "base": "models/sd/moon.safetensors", "path": "models\\sd\\TUSUN.safetensors",
        "motion_module": "m.ckpt", "seed": [1.0788741199826055e19, 7], "scheduler": "k_dpmpp", "steps": 4,
        "guidance_scale": 4, "clip_skip": 1, "lora_alpha": 0.6, "prompt": ["a fox", {"0": "a cat", "3": "a dog"}, "c"],
        "n_prompt": ["blurry"],
    }  # fmt: skip
    request = load(data, num_frames=4)
    assert [clip.seed[0] for clip in map(request.clip, range(3))] == [10788741199826055168, 7, 10788741199826055168]
    assert (request.prompt_of(0), request.prompt_of(2)) == ("a fox", "c")
    assert request.prompt_of(1).texts == {0: "a cat", 3: "a dog"}
    assert (request.negative_prompt, request.clip_skip, request.scheduler) == (("blurry",), 0, "dpmpp_2m_karras")
    assert (request.model, request.loras[0].scale) == ("models/sd/moon.safetensors", 0.6)
    assert request.name == "tusun-tusun-moon", "as that tool names the folder of its results"
    later = load({"name": "x", "prompts": ["a", "b"], "n_prompts": ["c", "d"], "seed": [1, 2]})
    assert (later.prompt, later.negative_prompt, later.seed) == (("a", "b"), ("c", "d"), (1, 2))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *(("lcm", "lcm"), ("ddim", "ddim"), ("pndm", "pndm"), ("heun", "heun"), ("unipc", "unipc")),
        *(("euler", "euler"), ("euler_a", "euler_a"), ("lms", "lms"), ("k_lms", "lms_karras")),
        *(("dpm_2", "dpm_2"), ("k_dpm_2", "dpm_2_karras"), ("dpm_2_a", "dpm_2_a"), ("k_dpm_2_a", "dpm_2_a_karras")),
        *(("dpmpp_2m", "dpmpp_2m"), ("k_dpmpp_2m", "dpmpp_2m_karras"), ("dpmpp_sde", "dpmpp_2s")),
        *(("k_dpmpp_sde", "dpmpp_2s_karras"), ("dpmpp_2m_sde", "dpmpp_2m_sde")),
        *(("k_dpmpp_2m_sde", "dpmpp_2m_sde_karras"), ("k_dpmpp", "dpmpp_2m_karras"), ("dpmpp", "dpmpp_2m_karras")),
        *(("dpm", "dpm_2"), ("k_dpm", "dpm_2_karras"), ("dpm_a", "dpm_2_a"), ("k_dpm_2_ancestral", "dpm_2_a_karras")),
    ],
)
def test_samplers_are_the_same_class_of_diffusers(theirs: str, ours: str) -> None:
    assert load({"prompt_map": {"0": "a"}, "scheduler": theirs}).scheduler == ours
    assert scheduler_name(ours) == ours


def test_images_stand_at_the_frames_of_their_names(place: Path) -> None:
    """Red, green, blue at frames 0, 4 and 8: halfway between two of them they are mixed."""
    colours("data/init", _0000=(255, 0, 0), _0004=(0, 255, 0), _0008=(0, 0, 255), _0012=(255, 255, 0))
    block = {"enable": True, "init_img_dir": "init", "denoising_strength": 0.25}
    data = {"name": "s", "seed": [7], "clip_skip": 1, "prompt_map": {"0": "a fox"}, "img2img_map": block}
    request = load(data, num_frames=4)
    assert (request.video, request.strength, request.video_by_number) == ("data/init", 0.25, True)
    source = NumberedFrames.of("data/init")
    frames = source.read(11, 32, 32)[:, 0, 0].tolist()
    assert [frames[at] for at in (0, 4, 8)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert frames[2] == [128, 128, 0] and frames[5] == [0, 191, 64] and frames[10] == [0, 0, 255]
    assert (source.read(4, 32, 32) == [255, 0, 0]).all(), "of four frames only the first has an image"
    assert len(source.indices) == 13
    code, _, err = run("--config", "a.json", "--num-frames", "4", "--steps", "4", "--out", "o.png")
    assert code == 0, err
    assert "blended from their neighbours" in err
    red, green, blue = read_video("o.png")[0].astype(int).mean(axis=(0, 1, 2))
    assert red > green + 40 and red > blue + 40
    code, _, err = run("a fox", "--video-by-number", "--num-frames", "4", "--out", "p.png")
    assert code == 2 and "--video-by-number" not in err and "video_by_number is a setting of video" in err


def test_blocks_without_images_are_off(caplog: pytest.LogCaptureFixture) -> None:
    Path("data/c/controlnet_canny").mkdir(parents=True)
    colours("data/c/controlnet_tile", _0020=(1, 2, 3))
    on = {"enable": True}
    block = {"input_image_dir": "c", "controlnet_canny": on, "controlnet_tile": on, "controlnet_tyle": on}
    assert load({"prompt_map": {"0": "a"}, "controlnet_map": block}).controlnet == ()
    assert "controlnet_map (controlnet_canny): is switched on, but off for want of images" in caplog.text
    assert "(controlnet_tile): is switched on, but off: the first image is for frame 20, and the clip has 16" in (
        caplog.text
    )
    assert "controlnet_map (controlnet_tyle): no such ControlNet" in caplog.text
    request = load({"prompt_map": {"0": "a"}, "controlnet_map": block}, num_frames=24)
    assert [Path(path).name for path in request.controlnet_video] == ["controlnet_tile"]
    load({"prompt_map": {"0": "a"}, "img2img_map": {"enabel": True, "init_img_dir": "c"}})
    assert "img2img_map: has no `enable`, so it is off" in caplog.text


def test_weights_are_found_where_that_tool_puts_them() -> None:
    Path("data/models/ip_adapter/models").mkdir(parents=True)
    Path("data/models/ip_adapter/models/ip-adapter-plus_sd15.bin").touch()
    colours("data/style", _0=(9, 9, 9))
    block = {"enable": True, "input_image_dir": "style", "is_plus": True}
    request = load({"prompt_map": {"0": "a"}, "ip_adapter_map": block})
    assert request.ip_adapter == "data/models/ip_adapter/models/ip-adapter-plus_sd15.bin"


def test_loras_of_regions_and_frames(caplog: pytest.LogCaptureFixture) -> None:
    loras = {
        "a.safetensors": {"region": ["background"], "scale": {"0": 0.6}},
        "b.safetensors": {"region": ["background"], "scale": {"0": 0.6, "32": 0.2}},
        "c.safetensors": {"region": ["0"], "scale": {"0": 1.0}},
    }
    request = load({"prompt_map": {"0": "a"}, "lora_map": loras})
    assert [(lora.path, lora.scale) for lora in request.loras] == [("a.safetensors", 0.6), ("b.safetensors", 0.6)]
    assert "lora_map (b.safetensors): its strengths by frame are not supported; 0.6 is taken" in caplog.text
    assert "lora_map (c.safetensors): acts in some regions there" in caplog.text
    assert "a.safetensors" not in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_comments_commas_and_encodings(encoding: str, place: Path) -> None:
    text = """{
  "name": "a # b",  # a comment
  "prompt_map": { // another, with "quotes"
    "0": "http://x, y",  /* over
    two lines */
  },
  "n_prompt": ["größe",],
}
"""
    (place / "a.json").write_text(text.replace("\n", "\r\n"), encoding=encoding, newline="")
    (request,) = load_config("a.json")
    assert (request.prompt, request.negative_prompt, request.name) == (("http://x, y",), ("größe",), "a # b")
    with pytest.raises(UserError, match=r"a.json: is not valid JSON \(.*escape: line 2.*; write / or"):
        load('{"prompt_map": {"0": "a"},\n "path": "models\\sd.safetensors"}')


def test_names_of_windows_and_of_a_checkout_of_that_tool(place: Path) -> None:
    model = place / "tool/data/models/sd/x.safetensors"
    for folder in (model.parent, place / "tool/config/prompts", place / "tool/stylize/00_img2img"):
        folder.mkdir(parents=True)
    model.touch()
    colours("tool/stylize/00_img2img/deeper", _0=(1, 1, 1))
    data = {
        "prompt_map": {"0": "a"}, "path": "models\\sd\\x.safetensors",
        "img2img_map": {"enable": True, "init_img_dir": "..\\stylize\\00_img2img\\deeper"},
    }  # fmt: skip
    path = place / "tool/config/prompts/a.json"
    path.write_text(json.dumps(data))
    request: Any = load_config(path)[0]
    assert Path(request.model) == model
    assert Path(request.video).resolve() == place / "tool/stylize/00_img2img/deeper"
    (place / "models/StableDiffusion").mkdir(parents=True)
    (place / "models/StableDiffusion/y.safetensors").touch()
    (request,) = parse_config("{prompt: a, model: 'C:\\sd\\y.safetensors'}")
    assert request.model == "models/StableDiffusion/y.safetensors"


def test_json_of_other_programs_is_named() -> None:
    for data, words in (
        ({"last_node_id": 3, "nodes": []}, "a workflow of ComfyUI"),
        ({"3": {"class_type": "KSampler", "inputs": {}}}, "a workflow of ComfyUI"),
        ({"prompt": "a", "alwayson_scripts": {}}, "A1111"),
        ({"animatediff": "1", "request": {"prompt": ["a"]}}, "--from"),
    ):
        with pytest.raises(UserError, match=words):
            load(data)


def test_a_name_is_the_title_of_results(place: Path) -> None:
    data = {"name": "My Clip/1", "prompt_map": {"0": "a fox"}, "seed": [1], "steps": 1}
    Path("a.json").write_text(json.dumps(data))
    small = ("--num-frames", "2", "--width", "32", "--height", "32")
    code, _, err = run("--config", "a.json", *small)
    assert code == 0, err
    (folder,) = Path("samples").iterdir()
    assert folder.name.startswith("my-clip-1-2")
    assert load_config(folder / "config.yaml")[0].name == "my clip/1"
    assert run("a fox", "--name", "Red fox", "--steps", "1", *small)[0] == 0
    assert (place / "samples/Red-fox.mp4").is_file()


# -- the original's YAML -----------------------------------------------------------------------------------------------


def test_former_keys_of_the_original(caplog: pytest.LogCaptureFixture) -> None:
    request: Any = parse_config("- {domain_lora_scale: 0.5, adapter_lora_path: a.ckpt, prompt: a, init_image: i.png}")[
        0
    ]
    assert (request.domain_adapter.path, request.domain_adapter.scale, request.image) == ("a.ckpt", 0.5, "i.png")
    with pytest.raises(UserError, match="'adapter_lora_scale' and another key"):
        parse_config("- {domain_lora_scale: 0.5, adapter_lora_scale: 1.0, adapter_lora_path: a.ckpt, prompt: a}")
    runs = parse_config("{prompt: a, guidance_scale: [5, 7.5], steps: [4, 8]}")
    assert [(run.guidance_scale, run.steps) for run in runs] == [(5, 4), (5, 8), (7.5, 4), (7.5, 8)]
    parse_config("{prompt: a, lora_alpha: 0.8, controlnet_config: c.yaml, dreambooth_path: d.ckpt, model: e.ckpt}")
    for words in (
        "controlnet_config without effect: no SparseCtrl",
        "lora_alpha without effect: no LoRA is named",
        "d.ckpt replaces e.ckpt",
    ):
        assert words in caplog.text


def test_names_of_other_front_ends() -> None:
    (request,) = parse_config(
        "{prompt: a, video_length: 8, frame_rate: 12, loop_count: 2, sampler_name: Euler a, cfg_scale: 5,"
        " vae_path: v.pt}"
    )
    assert (request.num_frames, request.fps, request.loop, request.scheduler) == (8, 12, 2, "Euler a")
    assert (request.guidance_scale, request.vae) == (5, "v.pt")


def test_numbered_frames_are_uint8() -> None:
    colours("n", _1=(10, 20, 30), _3=(11, 20, 30))
    frames = NumberedFrames.of("n").read(4, 8, 8)
    assert frames.dtype == np.uint8 and frames[:, 0, 0].tolist() == [[10, 20, 30]] * 2 + [[10, 20, 30], [11, 20, 30]]

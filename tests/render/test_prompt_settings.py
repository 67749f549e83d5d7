"""Prompts that travel in settings: YAML, JSON of another tool, the command line, and one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.close import relative
from support.commands import run

from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.prompts import PromptTravel
from animatediff.render import build_request, load_config, load_result, parse_config, to_original

SEASONS = {0: "spring", 12: "summer", 24: "autumn"}


# -- settings ----------------------------------------------------------------------------------------------------------


def texts(request: Any, index: int = 0) -> dict[int, str]:
    return dict(request.prompt_of(index).texts)


def test_all_ways_to_say_it_are_one_request() -> None:
    for values in (
        {"prompt": SEASONS},
        {"prompt": [SEASONS]},
        {"prompt_travel": SEASONS},
        {"prompt_travel": {str(frame): text for frame, text in SEASONS.items()}},
        {"prompt": "spring", "prompt_travel": {12: "summer", 24: "autumn"}},
    ):
        request = build_request(values)
        assert (request.prompt, request.prompt_travel) == (("spring",), ({12: "summer", 24: "autumn"},))
        assert texts(request) == SEASONS
    assert texts(build_request({"prompt_travel": {6: "a", 9: "b"}})) == {0: "a", 6: "a", 9: "b"}
    assert build_request({"prompt": {0: "a"}}).prompt_of() == "a"
    assert not request.prompt_of().loop
    for loop in ("prompt_loop", "closed_loop"):  # a clip whose end meets its start ends on its first text
        assert build_request({"prompt": SEASONS, loop: True}).prompt_of().loop
    assert build_request({"prompt": ["a", "b"], "prompt_tail": "c"}).prompt_of(1) == "b, c"


def test_a_travel_for_each_clip_or_one_for_all() -> None:
    mixed = build_request({"prompt": ["a", {0: "b", 3: "c"}], "seed": [1, 2]})
    assert (mixed.prompt_of(0), texts(mixed, 1)) == ("a", {0: "b", 3: "c"})
    shared = build_request({"prompt": ["a", "b"], "prompt_travel": {3: "c"}})
    assert [texts(shared, index) for index in (0, 1)] == [{0: "a", 3: "c"}, {0: "b", 3: "c"}]
    with pytest.raises(UserError, match="2 prompts want 1 or 2 mappings"):
        build_request({"prompt": ["a", "b"], "prompt_travel": [{1: "c"}] * 3})


def test_yaml_says_it_in_our_words_and_in_those_of_prompt_travel() -> None:
    ours = """
        - prompt_travel: {0: spring, 12: summer}
          prompt_head: a meadow
          prompt_tail: oil painting
          prompt_hold: 0.25
          prompt_interpolation: slerp
          num_frames: 16
    """
    theirs = """
        - prompt_map: {"0": spring, "12": summer}
          head_prompt: a meadow
          tail_prompt: oil painting
          prompt_fixed_ratio: 0.25
          prompt_interpolation: slerp
          L: 16
    """
    (request,), (other,) = parse_config(ours), parse_config(theirs)
    assert request == other
    assert request.prompt_of() == PromptTravel(
        {0: "spring", 12: "summer"}, head="a meadow", tail="oil painting", hold=0.25, interpolation="slerp"
    )
    assert parse_config(yaml.safe_dump([to_original(request)])) == [request]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt_travel: {0: a, 0: b}", "line 1: '0' is given twice"),
        ("- prompt: [{0: a, 3: b, 3: c}]", "line 1: '3' is given twice"),
        ("prompt: {0: a, 16: b}\nL: 16", "frame 16 is to show 'b'"),
        ("prompt: {-1: a}", "c.yaml: -1 is no frame"),
        ("prompt: x\nprompt_travel: {0: a}", "frame 0 has two texts"),
        ("prompt: {0: a}\nprompt_travel: {3: b}", "give one of them"),
        ("prompt: x\nprompt_travel: summer", "expected texts at frames"),
        ("prompt_travel: {4: [a]}", "frame 4: expected a text"),
    ],
)
def test_mistakes_in_a_file(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_config(text, where="c.yaml")


def test_options_win_over_the_file() -> None:
    text = "prompt: {0: a, 8: b}\nseed: 1"
    assert texts(parse_config(text, {"prompt_travel": {"4": "x"}})[0]) == {0: "a", 4: "x"}
    assert texts(parse_config(text, {"prompt_travel": {"0": "y", "4": "x"}})[0]) == {0: "y", 4: "x"}
    assert parse_config(text, {"prompt": ["other"]})[0].prompt_of() == "other"


def texts_or_text(request: Any) -> Any:
    prompt = request.prompt_of()
    return prompt if isinstance(prompt, str) else dict(prompt.texts)


JSON = {
    "name": "seasons", "path": "models/sd/base.safetensors", "motion_module": "models/motion-module/mm.ckpt",
    "vae_path": "", "seed": [3, -1], "scheduler": "k_dpmpp", "steps": 20, "guidance_scale": 8, "clip_skip": 2,
    "unet_batch_size": 1, "prompt_fixed_ratio": 0.25, "head_prompt": "a meadow", "tail_prompt": "oil painting",
    "prompt_map": {"0": "spring", "12": "summer"}, "n_prompt": ["blurry", "dark"], "tensor_interpolation_slerp": True,
    "lora_map": {"share/a.safetensors": 0.5}, "motion_lora_map": {"zoom.ckpt": 0.8}, "output": {"fps": 12},
    "controlnet_map": {"input_image_dir": "x", "controlnet_tile": {"enable": False}},
    "ip_adapter_map": {"enable": False}, "upscale_config": {"steps": 5},
}  # fmt: skip


def test_a_json_file_of_prompt_travel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON, indent="\t"))
    (request,) = load_config(path, {"num_frames": 24})
    assert caplog.text == ""
    assert request.prompt_of() == PromptTravel(
        {0: "spring", 12: "summer"}, head="a meadow", tail="oil painting", hold=0.25, interpolation="slerp"
    )
    assert request.stored() | {"prompt_travel": None} == {
        "model": "models/sd/base.safetensors", "motion_module": "models/motion-module/mm.ckpt",
        "loras": [{"path": "share/a.safetensors", "scale": 0.5}], "motion_loras": [{"path": "zoom.ckpt", "scale": 0.8}],
        "prompt": ["spring"], "prompt_travel": None, "prompt_head": "a meadow", "prompt_tail": "oil painting",
        "prompt_interpolation": "slerp", "prompt_hold": 0.25, "negative_prompt": ["blurry"], "seed": [3],
        "num_frames": 24, "steps": 20, "guidance_scale": 8.0, "scheduler": "dpmpp_2m_karras", "clip_skip": 1,
        "fps": 12.0,
    }  # fmt: skip
    (short,) = load_config(path, {"num_frames": 12})
    assert texts_or_text(short) == "a meadow, spring, oil painting"
    assert "texts beyond the clip of 12 frames are left out, as there (at 12); `num_frames` 13" in caplog.text


def numbered(folder: Path, *frames: int) -> Path:
    folder.mkdir(parents=True)
    for frame in frames:
        Image.new("RGB", (64, 64), (20 * frame, 90, 40)).save(folder / f"{frame:04d}.png")
    return folder


def test_frames_to_begin_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbered(tmp_path / "frames", *range(16))
    path = tmp_path / "seasons.json"
    block = {"enable": True, "init_img_dir": "frames", "denoising_strength": 0.4, "save_init_image": True}
    path.write_text(json.dumps(JSON | {"img2img_map": block}))
    (request,) = load_config(path)
    assert (request.video, request.strength) == (str(tmp_path / "frames"), 0.4) and caplog.text == ""
    assert request.video_by_number
    path.write_text(json.dumps(JSON | {"img2img_map": block | {"enable": False}}))
    assert load_config(path)[0].video is None
    for folder in ({}, {"init_img_dir": ""}, {"init_img_dir": "gone"}):
        caplog.clear()
        path.write_text(json.dumps(JSON | {"img2img_map": {"enable": True, **folder}}))
        assert load_config(path)[0].video is None
        assert "img2img_map: is switched on, but" in caplog.text


def test_pictures_for_controlnets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    numbered(Path("data/pictures/controlnet_canny"), 0, 8)
    numbered(Path("data/pictures/controlnet_openpose"), 4)
    Path("models/ControlNet").mkdir(parents=True)
    Path("models/ControlNet/control_v11p_sd15_canny.pth").write_bytes(b"")
    entry = {
        "enable": True, "use_preprocessor": True, "controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.1,
        "control_guidance_end": 0.9, "control_scale_list": [0.5, 0.25], "control_region_list": [],
    }  # fmt: skip
    block = {
        "input_image_dir": "pictures", "is_loop": True, "max_models_on_vram": 3, "controlnet_canny": entry,
        "controlnet_openpose": {"enable": True}, "controlnet_depth": entry, "controlnet_tile": {"enable": False},
        "qr_code_monster_v1": entry,
    }  # fmt: skip
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON | {"controlnet_map": block}))
    (request,) = load_config(path)
    names = ["control_v11p_sd15_canny.pth", "control_v11p_sd15_openpose.safetensors"]
    assert [Path(path).name for path in request.controlnet] == names, "of blocks with pictures: others do nothing"
    assert [Path(path).name for path in request.controlnet_video] == ["controlnet_canny", "controlnet_openpose"]
    assert request.controlnet_preprocess == ("canny", "none")
    assert request.controlnet_scale == (0.7, 1.0)
    assert (request.controlnet_start, request.controlnet_end) == ((0.1, 0.0), (0.9, 1.0))
    assert request.controlnet_spread == ((0.5, 0.25), (0.0,))
    assert "controlnet_map (controlnet_openpose): its preprocessor is not here" in caplog.text
    assert "controlnet_map (controlnet_depth, qr_code_monster_v1): is switched on, but off for want" in caplog.text
    for folder in ({}, {"input_image_dir": ""}, {"input_image_dir": "gone"}):
        caplog.clear()
        path.write_text(json.dumps(JSON | {"controlnet_map": {"controlnet_canny": {"enable": True}, **folder}}))
        assert load_config(path)[0].controlnet == ()
        assert "controlnet_map: is switched on, but its folder of images is missing" in caplog.text


def test_pictures_for_an_ip_adapter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbered(tmp_path / "style", 0, 8)
    block = {"enable": True, "input_image_dir": "style", "scale": 0.4, "is_plus": True, "prompt_fixed_ratio": 0.5}
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON | {"ip_adapter_map": block}))
    (request,) = load_config(path)
    assert request.ip_adapter == "models/IP-Adapter/ip-adapter-plus_sd15.safetensors"
    assert (request.image_mode, request.ip_adapter_scale) == ("ip-adapter", 0.4)
    images = {frame: str(tmp_path / "style" / f"{image:04d}.png") for frame, image in ((0, 0), (4, 0), (8, 8))}
    assert dict(request.images) == images and caplog.text == "", "the first image is held to frame 4"
    path.write_text(json.dumps(JSON | {"ip_adapter_map": block | {"is_plus": False}}))
    assert load_config(path)[0].ip_adapter == "models/IP-Adapter/ip-adapter_sd15.safetensors"
    path.write_text(json.dumps(JSON | {"ip_adapter_map": block | {"is_light": True}}))
    assert load_config(path)[0].ip_adapter == "models/IP-Adapter/ip-adapter_sd15_light.safetensors"
    for folder in ("gone", ""):
        caplog.clear()
        path.write_text(json.dumps(JSON | {"ip_adapter_map": block | {"input_image_dir": folder}}))
        (request,) = load_config(path)
        assert request.ip_adapter is None and request.images == []
        assert "ip_adapter_map: is switched on, but" in caplog.text


def test_what_such_a_file_asks_for_in_vain_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {
        "controlnet_map": {"input_image_dir": "x", "controlnet_ref": {"enable": True}},
        "lcm_map": {"enable": True}, "context_schedule": "composite",
        "region_map": {"0": {"enable": True}}, "output": {"format": "mp4", "fps": 8},
        "lora_map": {"b.safetensors": {"region": ["0"], "scale": {"0": 1.0, "32": 0.2}}},
        "prompt_map": {"0": "a __mood__ meadow"}, "is_single_prompt_mode": True,
    }  # fmt: skip
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON | more))
    (request,) = load_config(path)
    assert request.loras == () and request.fps == 8
    for words in (
        "controlnet_map (controlnet_ref)", "lcm_map", "region_map (0)",
        "context_schedule (composite)", "lora_map (b.safetensors", "output (format", "__mood__",
        "is_single_prompt_mode",
    ):  # fmt: skip
        assert words in caplog.text
    path.write_text(json.dumps(JSON | {"prompt_mapp": {}}))
    with pytest.raises(UserError, match="unknown setting 'prompt_mapp'; did you mean 'prompt_map'"):
        load_config(path)
    path.write_text('{"prompt_map": {"0": "a", "0": "b"}}')
    with pytest.raises(UserError, match="'0' is given twice"):
        load_config(path)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


FAST = ("--num-frames", "6", "--steps", "2", "--seed", "5", "--width", "32", "--height", "32", "--dtype", "float32")


def test_a_clip_its_timeline_and_its_repeat(place: Path) -> None:
    words = ("--prompt-at", '4="a boat moving left"', "--prompt-tail", "on a blue background", "--prompt-hold", "0")
    code, out, err = run("a fox moving right", *FAST, *words, "--out", "o/fox.png")
    assert code == 0, err
    assert {p.name for p in (place / "o").iterdir()} == {"fox.png", "fox.png.json", "fox.prompts.png"}
    assert "fox.prompts.png" in out
    assert "after each: on a blue background" in err
    assert (
        "  0    a fox moving right\n  1-3  a fox moving right -> a boat moving left (25 to 75 %)\n  4-5  a boat" in err
    )
    assert "texts stand 4 frames apart, fewer than the 16" in err
    assert Image.open("o/fox.prompts.png").size[0] > 600
    frames = read_video("o/fox.png")[0]
    assert texts(load_result("o/fox.png")) == {0: "a fox moving right", 4: "a boat moving left"}
    code, out, err = run("--from", "o/fox.png", "--out", "again.png", "--quiet")
    assert (code, err, out) == (0, "", "again.png\n") and (place / "again.prompts.png").exists()
    assert np.array_equal(read_video("again.png")[0], frames)
    assert run("--from", "o/fox.png", "--prompt-hold", "1", "--out", "step.png")[0] == 0
    assert relative(read_video("step.png")[0], frames) > 1e-2


def test_runs_of_a_file_keep_their_travels(place: Path) -> None:
    Path("seasons.yaml").write_text(
        "- model: bundled\n  prompt: [{0: a fox, 3: a boat}, a star]\n  seed: [1, 2]\n"
        "  num_frames: 4\n  steps: 1\n  width: 32\n  height: 32\n"
    )
    code, _, err = run("--config", "seasons.yaml")
    assert code == 0, err
    (folder,) = Path("samples").iterdir()
    assert (folder / "sample" / "0-a-fox.prompts.png").exists()
    assert not (folder / "sample" / "1-a-star.prompts.png").exists()
    (again,) = load_config(folder / "config.yaml")
    assert (texts(again, 0), again.prompt_of(1)) == ({0: "a fox", 3: "a boat"}, "a star")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt-at", "6=b"), "frame 6 is to show 'b', but the clip has 6 frames"),
        (("--prompt-at", "-1=b"), "'-1' is no frame"),
        (("--prompt-at", "1.5=b"), "'1.5' is no frame"),
        (("--prompt-at", "b"), "expected a frame and a text"),
        (("--prompt-at", "2=b", "--prompt-at", "02=c"), "frame 2 has two texts"),
        (("--prompt-at", "0=b"), "frame 0 has two texts"),
        (("--prompt-at", "2=b", "--prompt-hold", "2"), "prompt_hold=2.0"),
        (
            ("--prompt-at", "2=b", "--prompt-interpolation", "cubic"),
            "unknown prompt_interpolation 'cubic'; known are linear, slerp",
        ),
    ],
)
def test_mistakes_on_the_command_line(place: Path, options: tuple[str, ...], words: str) -> None:
    code, out, err = run("a fox", *FAST, *options, "--out", "fox.png")
    assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert not any(place.iterdir())


def test_a_frame_beyond_the_length_that_the_model_recommends(place: Path) -> None:
    code, _, err = run("a fox", "--prompt-at", "16=b", "--steps", "1", "--out", "fox.png")
    assert code == 2 and "the clip has 16 frames" in err and not any(place.iterdir())

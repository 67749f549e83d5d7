"""What a request says arrives in the `AnimateRequest`, or is refused by name."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff.media.write import write_video
from animatediff.render.options import BY_NAME, FIELDS, IN_MEMORY
from animatediff.render.request import AnimateRequest, build_request
from animatediff.server.catalog import PLACES, Catalog
from animatediff.server.errors import ApiError
from animatediff.server.form import Body, nested
from animatediff.server.schema import EXTRA, NOT_HERE, REFUSED, TOP, extra_schema
from animatediff.server.settings import Settings
from animatediff.server.uploads import Uploads
from animatediff.server.values import Reader


def png(width: int = 16, height: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, format="PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(np.zeros((4, 16, 16, 3), np.uint8), path).read_bytes()


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    models = tmp_path / "models"
    for folder in {folder for folders in PLACES.values() for folder in folders}:
        (models / folder).mkdir(parents=True)
        (models / folder / "own.safetensors").write_bytes(b"")
    (models / "MotionLoRA" / "v2_lora_Spin.ckpt").write_bytes(b"")
    settings = Settings(data=tmp_path / "data", models=(models,))
    return Reader(settings, Catalog(settings.models))


def asked(reader: Reader, files: list[tuple[str, bytes]] | None = None, **values: Any) -> AnimateRequest:
    uploads = Uploads(Path("/inputs"))
    return build_request(reader.read(Body({"prompt": "a fox", **values}, files or []), uploads).options)


def refusal(reader: Reader, files: list[tuple[str, bytes]] | None = None, **values: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        asked(reader, files, **values)
    assert 400 <= error.value.status < 500
    return error.value


def needs(mp4: bytes) -> dict[str, dict[str, Any]]:
    """Other options without which an option is refused."""
    video, image = data_url(mp4, "video/mp4"), data_url(png())
    encoder = {"sparsectrl": "own.safetensors", "control_images": [image]}
    net = {"controlnet": ["own.safetensors"], "controlnet_video": [video]}
    adapter = {"ip_adapter": "own.safetensors", "ip_adapter_image": [image]}
    start = {"video": video}
    return (
        {name: encoder for name in FIELDS if name.startswith("control_")}
        | {"sparsectrl": encoder, "normalize_condition_images": encoder}
        | {name: net for name in FIELDS if name.startswith("controlnet")}
        | {name: adapter for name in FIELDS if name.startswith("ip_adapter")}
        | dict.fromkeys(("strength", "audio", "video_fps", "video_start", "video_duration"), start)
        | {name: {"upscale": 2.0} for name in ("upscale_strength", "upscale_steps")}
        | {"image_mode": {"image": image}}
        | {
            name: {"camera_control": "own.safetensors", "camera": "zoom-in"}
            for name in FIELDS
            if name.startswith("camera")
        }
    )


VALUES: dict[str, Any] = {
    "family": "v2", "prediction_type": "epsilon", "embeddings": [{"path": "own.safetensors", "token": "ugly"}],
    "prompt_travel": {"2": "a cat"}, "prompt_interpolation": "slerp", "negative_prompt": "blurry",
    "motion_scale": {"0": 1.0, "3": 0.5}, "image_affinity": {"0": 1.0, "3": 0.5},
    "blend": "flat", "long_mode": "motion", "noise": "freenoise",
    "freeinit_filter": "gaussian", "control_preprocess": "scribble", "controlnet_preprocess": ["canny"],
    "resize": "pad", "image_mode": "latents", "scheduler": "euler_a", "dtype": "float16", "seed": 5, "width": 64,
    "height": 72, "stride": 2, "freeinit": 2, "guidance_scale": 3.0, "upscale": 1.5, "decode_chunk_size": 2,
    "num_frames": 8, "fps_out": 24.0, "vram": "6GB", "control_indices": [1], "upscale_strength": 0.35,
    "freeinit_ds": 0.3, "freeinit_dt": 0.3,
    "quality": 60, "loop": 2, "fps": 12.0, "steps": 7, "window": 6, "overlap": 2, "clip_skip": 2,
    "camera": "pan-left:0.5", "controlnet_end": [0.5], "control_end": 0.5, "strength": 0.4, "prompt_hold": 0.25,
    "drive_kind": ["canny"], "motion_from_blocks": "down", "motion_from_end": 0.5,
}  # fmt: skip


def example(name: str, mp4: bytes) -> Any:
    """A value of an option that is not its default, as a client sends it."""
    option = BY_NAME[name]
    if name in VALUES:
        return VALUES[name]
    if name == "keyframes":
        return [{"frame": 2, "path": data_url(png())}]
    if name in IN_MEMORY:
        given = data_url(png()) if option.in_memory == "image" else data_url(mp4, "video/mp4")
        return [given] if option.many else given
    if name in PLACES:
        return [{"path": "own.safetensors", "scale": 0.5}] if "WeightRef" in option.annotation else "own.safetensors"
    if option.choices is not None and not option.many:
        return next(word for word in option.choices if word != option.default)
    if option.entry is bool:
        return not option.default
    if option.entry in (int, float):
        one = option.entry(0.75 if option.entry is float else 2)
        return [one] if option.many else one
    return "some words"


@pytest.mark.parametrize("name", EXTRA)
def test_every_option_arrives(name: str, reader: Reader, mp4: bytes) -> None:
    value = example(name, mp4)
    if name == "domain_adapter":
        value = value[0]
    beside = {key: item for key, item in needs(mp4).get(name, {}).items() if key != name}
    before = {**beside, **({"controlnet_video": [data_url(mp4)]} if name == "controlnet" else {})}
    file = "gif" if name == "max_size" else "mp4"
    request = asked(reader, output_format=file, extra_params={**before, name: value})
    found = getattr(request, name)
    assert found != BY_NAME[name].default
    if name in PLACES or name in IN_MEMORY:
        text = json.dumps(request.model_dump(mode="json")[name])
        assert ("own.safetensors" in text) == (name in PLACES) and ("/inputs/" in text) == (name in IN_MEMORY)
    else:
        assert found == getattr(build_request({"prompt": "a fox", **_plain(request), name: value}), name)


def _plain(request: AnimateRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.model_fields_set}


def test_every_option_is_taken_or_refused_with_its_reason(reader: Reader) -> None:
    """A new option stands in the schema by itself; one that is refused has a reason, and is told it."""
    assert set(EXTRA) | set(REFUSED) == set(FIELDS)
    assert set(extra_schema()["properties"]) == set(EXTRA)
    for name, reason in REFUSED.items():
        error = refusal(reader, extra_params={name: "x"})
        assert error.param == f"extra_params.{name}" and reason in str(error)
    for name in set(REFUSED) - set(TOP.values()):
        assert REFUSED[name] in str(refusal(reader, **{name: "x"}))
    for name, reason in NOT_HERE.items():
        error = refusal(reader, **{name: "1"})
        assert error.param == name and reason in str(error)


def test_the_names_of_openai_and_vllm_are_options_of_ours(reader: Reader) -> None:
    request = asked(
        reader, seconds="2", size="72x64", negative_prompt="blurry", num_inference_steps=3, guidance_scale=2.5, seed=9,
        fps=4, model="bundled/neon", input_reference=data_url(png()),
        lora=[{"name": "DreamBooth_LoRA/own.safetensors", "scale": 0.5}, {"name": "ZoomIn"},
              {"name": "spin", "scale": 2}],
        enable_frame_interpolation=True, frame_interpolation_exp=2,
    )  # fmt: skip
    assert request.fps_out == 16.0
    assert (request.num_frames, request.fps, request.width, request.height) == (8, 4.0, 72, 64)
    assert (request.negative_prompt, request.steps, request.guidance_scale) == (("blurry",), 3, 2.5)
    assert (request.seed, request.model, request.image) == ((9,), "bundled/neon", "/inputs/input_reference-0.png")
    assert [(Path(ref.path).name, ref.scale) for ref in request.loras] == [("own.safetensors", 0.5)]
    assert [(ref.path, ref.scale) for ref in request.motion_loras] == [("ZoomIn", 1.0), ("spin", 2.0)]


@pytest.mark.parametrize(
    ("values", "frames", "fps"),
    [
        ({"seconds": "4"}, 32, 8.0),
        ({"seconds": 0.5, "fps": 12}, 6, 12.0),
        ({"seconds": "2", "num_frames": 20}, 20, 10.0),
        ({"seconds": "2", "num_frames": 16, "fps": 8}, 16, 8.0),
        ({"seconds": "2", "extra_params": {"fps": "4"}}, 8, 4.0),
        ({"num_frames": "5"}, 5, None),
        ({"seconds": "0.01"}, 1, 8.0),
    ],
)
def test_seconds(reader: Reader, values: dict[str, Any], frames: int, fps: float | None) -> None:
    request = asked(reader, **values)
    assert (request.num_frames, request.fps) == (frames, fps)


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"seconds": "four"}, "seconds", "number of seconds"),
        ({"seconds": "-1"}, "seconds", "more than 0"),
        ({"seconds": "nan"}, "seconds", "more than 0"),
        ({"seconds": "1e999"}, "seconds", "more than 0"),
        ({"seconds": "2", "num_frames": 5, "fps": 8}, "seconds", "give two of the three"),
        ({"size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"size": "65x64"}, "size", "multiple of 8"),
        ({"size": "64x64", "width": 72}, "size", "contradict"),
        ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1"),
        ({"num_inference_steps": 400}, "num_inference_steps", "at most 150"),
        (
            {"extra_params": {"steps": 400}},
            "extra_params.steps",
            "extra_params.steps=400: this server makes at most 150",
        ),
        ({"seed": -7}, "seed", "64 bits"),
        ({"extra_params": {"seed": -7}}, "extra_params.seed", "extra_params.seed[0]=-7"),
        ({"seconds": "9000"}, "seconds", "seconds=9000: num_frames=72000; the limit is"),
        ({"seconds": 900, "extra_params": {"fps": 24}}, "seconds", "seconds=900: num_frames=21600; "),
        ({"num_frames": 72000}, "num_frames", "num_frames=72000; "),
        ({"extra_params": {"num_frames": 72000}}, "extra_params.num_frames", "extra_params.num_frames=72000; "),
        ({"size": "10000x10000"}, "size", "size=10000x10000: frames of 10000 x 10000 (size) have 100,000,000 pixels"),
        ({"width": 10000, "height": 10000}, "width", "10000 (width x height) have"),
        ({"seconds": "2", "extra_params": {"num_frames": 5, "fps": 8}}, "seconds", "extra_params.num_frames=5 at"),
        ({"size": "64x8000"}, "size", "size=64x8000: height: 8,000 pixels"),
        ({"extra_params": {"width": 63}}, "extra_params.width", "extra_params.width=63"),
        ({"size": "64x64", "extra_params": {"width": 72}}, "size", "extra_params.width=72 contradict"),
        (
            {"enable_frame_interpolation": True, "extra_params": {"fps": "x"}},
            "extra_params.fps",
            "extra_params.fps='x'",
        ),
        (
            {"input_reference": data_url(png()), "image_reference": data_url(png())},
            "image_reference",
            "input_reference",
        ),
        ({"width": 63}, "width", "nearest: 56 or 64"),
        ({"guidance_scale": "strong"}, "guidance_scale", "number"),
        ({"extra_params": {"control_end": 2}}, "extra_params.control_end", "expected 0 to 1"),
        ({"extra_params": {"blend": "pyramide"}}, "extra_params.blend", "did you mean 'pyramid'"),
        ({"extra_params": {"strenght": 0.5}}, "extra_params.strenght", "did you mean 'strength'"),
        ({"extra_params": {"num_inference_steps": 5}}, "extra_params.num_inference_steps", "steps"),
        ({"extra_params": {"steps": 5}, "num_inference_steps": 5}, "num_inference_steps", "given twice"),
        ({"extra_params": {"seed": [1, 2]}}, "extra_params.seed", "one job is one video"),
        ({"extra_params": {"strength": 0.5}}, "extra_params.strength", "add extra_params.video"),
        ({"extra_params": [1]}, "extra_params", "dictionary"),
        ({"strength": 0.5}, "strength", "extra_params.strength"),
        ({"promt": "a"}, "promt", "did you mean 'prompt'"),
        ({"output_format": "webm", "extra_params": {"codec": "prores"}}, "extra_params.codec", "vp9"),
        ({"extra_params": {"max_size": 1}}, "extra_params.max_size", "for gif and webp"),
        ({"output_format": "avi"}, "output_format", "known are mp4"),
        ({"model": "sora-2"}, "model", "there are bundled"),
        ({"input_reference": {"file_id": "file_1"}}, "input_reference", "no files are kept"),
        ({"input_reference": {}}, "input_reference", "one of them"),
        ({"lora": {"name": "own.safetensors"}}, "lora", "write its folder before it"),
        ({"lora": {"name": "none"}}, "lora", "no model 'none' here"),
        ({"width": 800000, "height": 8}, "width", "at most 4,096 a side"),
        ({"width": 64, "height": 2048, "extra_params": {"upscale": 4}}, "height", "at most 4,096 a side"),
        ({"frame_interpolation_exp": 1}, "frame_interpolation_exp", "without enable_frame_interpolation"),
        ({"enable_frame_interpolation": True, "fps": 200}, "enable_frame_interpolation", "up to 240"),
        ({"enable_frame_interpolation": True, "frame_interpolation_exp": 9}, "frame_interpolation_exp", "equal to 4"),
        (
            {"enable_frame_interpolation": True, "extra_params": {"fps_out": 24}},
            "enable_frame_interpolation",
            "give one",
        ),
        ({"extra_params": {"upscaler": "realesr"}}, "extra_params.upscaler", "realesr-animevideov3-x2"),
        ({"user": "\ud800"}, "user", "string"),
        ({"model": "\ud800"}, "model", "string"),
        ({"user": "x" * 300}, "user", "at most 200"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": ["a", "b"]}, "prompt", "string"),
        ({"prompt": "a" * 60_000}, "prompt", "or raise --max-prompt-chars of the server"),
    ],
)
def test_mistakes_name_the_field(reader: Reader, values: dict[str, Any], param: str, words: str) -> None:
    error = refusal(reader, **values)
    assert (error.param, words in str(error)) == (param, True), str(error)
    assert len(str(error).splitlines()) == 1


HOSTILE_NAMES = (
    "/etc/passwd", "../secret.safetensors", "../../secret.safetensors", "StableDiffusion/../../secret.safetensors",
    "own.safetensors/../own.safetensors", "C:\\own.safetensors", "~/own.safetensors", "\\\\host\\share", "own",
    "stable-diffusion-v1-5/stable-diffusion-v1-5", "https://example.com/a.safetensors", "bundled/../model",
    "bundled/", "", "own.safetensors\0", "file:///etc/passwd", ".", "..", "x" * 5000, "mm_sd_v15_v2.ckpt",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_only_models_in_the_folders_can_be_named(reader: Reader, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"")
    assert asked(reader, extra_params={"vae": "own.safetensors"}).vae is not None
    for setting in PLACES:
        value = [{"path": name}] if "WeightRef" in BY_NAME[setting].annotation else name
        values = {"model": name} if setting == "model" else {"extra_params": {setting: value}}
        if not name or (name, setting) == ("own", "motion_loras"):
            continue  # nothing given; the short name of a MotionLoRA
        error = refusal(reader, **values)
        assert error.param == ("model" if setting == "model" else f"extra_params.{setting}")


@pytest.mark.parametrize("setting", IN_MEMORY)
@pytest.mark.parametrize("value", ["/etc/passwd", "http://127.0.0.1/a.png", "file:///etc/passwd", "part:0", "data:,x"])
def test_no_path_and_no_address_is_an_image(reader: Reader, setting: str, value: str) -> None:
    given = [{"frame": 0, "path": value}] if setting == "keyframes" else value
    error = refusal(reader, extra_params={setting: given})
    assert error.param is not None and error.param.startswith(f"extra_params.{setting}")


def test_files_of_a_form_stand_for_options(reader: Reader, mp4: bytes) -> None:
    files = [("image", png()), ("keyframes[3]", png()), ("controlnet_video", mp4), ("ip_adapter_image", png())]
    request = asked(reader, files, extra_params={"controlnet": "own.safetensors", "ip_adapter": "own.safetensors"})
    assert request.image == "/inputs/image-0.png"
    assert [(item.frame, item.path) for item in request.keyframes] == [(3, "/inputs/keyframes-1.png")]
    assert request.controlnet_video == ("/inputs/controlnet_video-2.mp4",)
    assert request.ip_adapter_image == ("/inputs/ip_adapter_image-3.png",)
    assert asked(reader, [("input_reference", mp4)]).video == "/inputs/input_reference-0.mp4"
    assert refusal(reader, [("imagee", png())]).param == "imagee"
    assert refusal(reader, [("image", png())], image_reference=data_url(png())).param is not None
    assert refusal(reader, [("image", png()), ("image", png())]).param == "image"
    assert refusal(reader, [("extra_params[image]", b"no image")]).param == "extra_params.image"
    assert refusal(reader, [("control_images", b"no image")]).param == "control_images"


def test_fields_in_brackets() -> None:
    """As OpenAI's clients write nested values in forms."""
    pairs = [
        ("extra_params[loras][][path]", "a"), ("extra_params[loras][][path]", "b"),
        ("extra_params[loras][][scale]", "1"), ("extra_params[loras][][scale]", "2"),
        ("extra_params[control_indices][]", "3"),
        ("extra_params[prompt_travel][8]", "a cat"),
    ]  # fmt: skip
    assert nested(pairs) == {
        "extra_params": {
            "loras": [{"path": "a", "scale": "1"}, {"path": "b", "scale": "2"}],
            "control_indices": ["3"],
            "prompt_travel": {"8": "a cat"},
        }
    }
    for hostile in ("a" + "[b]" * 50, "a[b", "[]", "a.b", "a" * 1000, "a]["):
        with pytest.raises(ApiError):
            nested([(hostile, "1")])
    for twice in ([("a", "1"), ("a", "2")], [("a", "1"), ("a[b]", "2")], [("a[b]", "1"), ("a[b][c]", "2")]):
        with pytest.raises(ApiError):
            nested(twice)

"""The inputs of the Cog model: made from the options, written where Cog reads them, published names beside ours."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from support.paths import GOLDEN, ROOT

from animatediff import __version__
from animatediff.errors import UserError
from animatediff.media.read import read_video
from animatediff.render.options import BY_NAME, FIELDS
from animatediff.render.read.result import load_result
from integrations.cog.animatediff_cog import schema
from integrations.cog.animatediff_cog.inputs import NOT_HERE
from integrations.cog.animatediff_cog.models import Models
from integrations.cog.animatediff_cog.published import ALIASES, REFUSED
from integrations.cog.animatediff_cog.render import Rendering
from integrations.cog.animatediff_cog.request import Reader
from integrations.cog.animatediff_cog.settings import Settings, read_settings

FOLDER = ROOT / "integrations/cog"
PUBLISHED: dict[str, dict[str, Any]] = {
    "lucataco/animate-diff": {
        "motion_module": "mm_sd_v14",
        "path": "toonyou_beta3.safetensors",
        "prompt": "a fox",
        "n_prompt": "blurry",
        "steps": 2,
        "guidance_scale": 7.5,
        "seed": 3,
    },
    "its sibling of the SDXL beta": {
        "motion_module": "mm_sd_v14",
        "checkpoint": "toonyou_beta3.safetensors",
        "use_checkpoint": True,
        "aspect": "3:2",
        "video_length": 4,
        "prompt": "a fox",
        "n_prompt": "blurry",
        "steps": 2,
        "guidance_scale": 8.5,
        "mp4": True,
    },
    "zsxkib/animate-diff": {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "frames": 4,
        "width": 32,
        "height": 32,
        "base_model": "toonyou_beta3",
        "custom_base_model_url": "",
        "steps": 2,
        "guidance_scale": 7.5,
        "zoom_in_motion_strength": 0.5,
        "zoom_out_motion_strength": 0,
        "use_custom_motionlora": False,
        "custom_motionlora_url": "",
        "custom_motionlora_motion_strength": 1.0,
        "output_format": "gif",
    },
    "zsxkib/animate-diff, before": {
        "prompt": "a fox",
        "motion_module_type": "mm_sd_v14",
        "motion_module_lora_type": "ZoomIn",
        "alpha": 0.8,
        "dreambooth_type": "toonyou_beta3",
        "lora_model_path": "",
        "L": 4,
        "W": 32,
        "H": 32,
    },
    "camenduru/animatediff-lightning-4-step": {"prompt": "a fox", "guidance_scale": 1.0},
    "lucataco's vid2vid": {"prompt": "a fox", "num_inference_steps": 25, "video": Path("a.mp4"), "strength": 0.5},
}
"""Requests as clients of published models make them."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: small ones of the layout of v3 under published names."""
    folder = tmp_path_factory.mktemp("deployment") / "models"
    for name, source in {
        "DreamBooth_LoRA/toonyou_beta3": "sd",
        "Motion_Module/mm_sd_v14.ckpt": "motion_module.ckpt",
        "Motion_Module/v3_sd15_adapter.ckpt": "domain_adapter.ckpt",
        "MotionLoRA/v2_lora_ZoomIn.ckpt": "motion_lora.ckpt",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(GOLDEN / "v3" / source)
    return folder


@pytest.fixture(scope="module")
def reader(models: Path) -> Reader:
    return Reader(Settings(models=models))


# -- what Cog reads ----------------------------------------------------------------------------------------------------


def test_the_files_that_cog_reads_are_up_to_date() -> None:
    """After a change of an option: make cog-schema."""
    assert schema.stale() == []


def test_a_stale_file_is_found(tmp_path: Path) -> None:
    for path, text in schema.files_of(FOLDER).items():
        target = tmp_path / path.relative_to(FOLDER)
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    shutil.copy(FOLDER / "settings.yaml", tmp_path)
    assert schema.stale(tmp_path) == []
    (tmp_path / "settings.yaml").write_text("limits: {steps: 40}\n")
    assert schema.stale(tmp_path) == ["run.py", ".cog/openapi_schema.json"]


def test_every_option_is_an_input_with_its_range_and_default_or_named_as_none() -> None:
    document = json.loads((FOLDER / schema.SCHEMA).read_text())["components"]["schemas"]
    properties, limits = document["Input"]["properties"], read_settings().limits
    assert document["Input"]["required"] == ["prompt"]
    for name in FIELDS:
        if name in NOT_HERE:
            assert name not in properties
            continue
        option, field = BY_NAME[name], properties[name]
        if (within := option.range) is not None and field.get("type") in ("integer", "number"):
            low = within.ge if within.gt is None else within.gt + 0.001
            assert field.get("minimum") == low and field.get("maximum") == limits.get(name, within.le), name
        if field.get("default") is not None:
            default = option.default[0] if isinstance(option.default, tuple) else option.default
            assert field["default"] == default, name
        if option.choices is not None and not option.many:
            assert document[name]["enum"] == list(option.choices), name
    assert [properties[name]["x-order"] for name in properties] == list(range(len(properties)))
    assert {name for name, field in properties.items() if field.get("deprecated")} >= {*ALIASES, *REFUSED, "mp4"}


def test_cogs_own_reader_takes_the_signature(tmp_path: Path) -> None:
    """Its checks of types, defaults, choices and bounds, as of the wheel."""
    inspector = pytest.importorskip("cog._inspector", reason="cog is not installed")
    from cog import FieldInfo
    from cog import Path as CogPath

    for item in schema.inputs_of():
        kind = {"str": str, "int": int, "float": float, "bool": bool, "Path": CogPath}[item.kind]
        annotation: Any = list[kind] if item.many else kind
        field = FieldInfo(
            default=item.default,
            description=item.description,
            ge=item.ge,
            le=item.le,
            choices=list(item.choices) if item.choices else None,
        )
        found = inspector._create_input_field(0, item.name, annotation, field)
        assert found.default == item.default, item.name


def test_the_image_gets_the_versions_that_are_tested() -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    assert lines[1] == f"./dist/animatediff-{__version__}-py3-none-any.whl"
    for line in lines[2:]:
        name, version = line.split("==")
        assert version in (
            pins.get(name),
            *re.findall(rf"^{name}==(\S+);", (ROOT / "constraints.txt").read_text(), re.M),
        )
    config = yaml.safe_load((FOLDER / "cog.yaml").read_text())
    assert config["run"] == "run.py:Runner" and config["build"]["sdk_version"] == schema.COG_VERSION
    assert pins["cog"] == schema.COG_VERSION


# -- published names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", PUBLISHED.values(), ids=list(PUBLISHED))
def test_requests_of_clients_of_published_models_are_taken(given: dict[str, Any], models: Path) -> None:
    defaults = {"model": "toonyou_beta3", "motion_module": "mm_sd_v14", "width": 512, "height": 512}
    reader = Reader(Settings(models=models, defaults=defaults))
    assert set(given) <= set(reader.inputs)
    asked = reader.read(given)
    request = asked.request
    assert request.model == str(models / "DreamBooth_LoRA/toonyou_beta3")
    assert request.motion_module == str(models / "Motion_Module/mm_sd_v14.ckpt")
    assert request.prompt == ("a fox",) and request.negative_prompt in (("blurry",), ("",))
    if {"frames", "video_length", "L"} & set(given):
        assert request.num_frames == 4
    if {"W", "width"} & set(given):
        assert (request.width, request.height) == (32, 32)
    if "aspect" in given:
        assert (request.width, request.height) == (624, 416), "about 512 x 512 pixels"
    scales = {"zoom_in_motion_strength": 0.5, "motion_module_lora_type": 0.8}
    wanted = [scale for name, scale in scales.items() if name in given]
    assert [(ref.path, ref.scale) for ref in request.motion_loras] == [
        (str(models / "MotionLoRA/v2_lora_ZoomIn.ckpt"), scale) for scale in wanted
    ]
    assert asked.suffix == (".gif" if given.get("output_format") == "gif" else ".mp4")
    assert request.steps == given.get("steps", given.get("num_inference_steps"))


def test_the_clip_of_a_published_request_is_made_with_its_models(models: Path) -> None:
    settings = Settings(models=models, defaults={"motion_module": "mm_sd_v14", "seed": 4})
    rendering, metrics = Rendering(settings), dict[str, Any]()
    given = PUBLISHED["zsxkib/animate-diff"] | {"steps": 1}
    file = rendering.render(given, metrics.__setitem__)
    assert file.suffix == ".gif" and read_video(file)[0].shape == (4, 32, 32, 3)
    assert metrics["models_loaded"] == 1 and metrics["num_frames"] == 4
    made = load_result(file)
    assert [(Path(ref.path).name, ref.scale) for ref in made.motion_loras] == [("v2_lora_ZoomIn.ckpt", 0.5)]
    assert (made.seed, made.steps, made.negative_prompt) == ((4,), 1, ("blurry",))


@pytest.mark.parametrize("alias", ALIASES)
def test_a_former_name_and_ours_must_not_contradict_each_other(alias: str, reader: Reader) -> None:
    name = ALIASES[alias]
    one, other = {"negative_prompt": ("a", "b"), "steps": (3, 4)}.get(name, (8, 16))
    if name in ("model", "motion_module"):
        one, other = ("bundled", "toonyou_beta3") if name == "model" else ("bundled", "mm_sd_v14")
    if name not in ("model", "motion_module"):
        same = reader.read({"prompt": "a", name: one, alias: one}).request
        assert same == reader.read({"prompt": "a", name: one}).request
    with pytest.raises(UserError, match=rf"^{alias}=.* and {name}=.* contradict each other; give {name} alone$"):
        reader.read({"prompt": "a", name: one, alias: other})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"use_custom_motionlora": True}, "use_custom_motionlora is not taken: a prediction fetches no models"),
        ({"custom_motionlora_url": "https://x/y"}, "custom_motionlora_url is not taken"),
        ({"aspect": "16:9", "width": 64, "height": 64}, "give width and height alone"),
        ({"zoom_in_motion_strength": 0.5, "motion_loras": ["zoom-in"]}, "both give ZoomIn"),
        ({"zoom_in_motion_strength": 1.5}, "zoom_in_motion_strength=1.5: expected 0 to 1"),
        ({"keyframe_indices": [0]}, "keyframes has 0 images and keyframe_indices 1 frames"),
        ({"image": "images/a.png"}, "image: expected the address of a file"),
        ({"video": "/etc/passwd"}, "video: expected the address of a file"),
        ({"model": "../../secret.safetensors"}, "model: no model '../../secret.safetensors' here; there are bundled"),
        ({"model": "owner/name"}, "paths, addresses and hub ids are not taken"),
        ({"motion_module": "mm_sd_v41"}, "did you mean 'mm_sd_v14'"),
        ({"max_size": 2.0}, "max_size"),
        ({"audio": True, "video": Path("a.mp4"), "output_format": "gif"}, "gif"),
        ({"motion_loras": ["PanLef"]}, "motion_loras: no model 'PanLef' here; did you mean 'PanLeft'"),
        ({"seed": 1.8446744073709552e19}, "seed=1.8446744073709552e+19: expected a whole number"),
        ({"prompt_travel": ["nine"]}, "prompt_travel: expected a frame and a text"),
        ({"out": "/tmp/x.mp4"}, "out is not taken: the result is the output of the prediction"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_message(given: dict[str, Any], message: str, reader: Reader) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        reader.read({"prompt": "a fox", **given})


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"alpha": 0.8}, "alpha is left out: it is the scale of motion_module_lora_type"),
        ({"alpha": 0.8, "motion_module_lora_type": "none"}, "alpha is left out"),
        ({"custom_motionlora_motion_strength": 1.0}, "custom_motionlora_motion_strength is left out"),
        ({"use_checkpoint": False, "checkpoint": "toonyou_beta3"}, "checkpoint is left out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_published_input_without_effect_is_said(given: dict[str, Any], note: str, reader: Reader) -> None:
    (said,) = reader.read({"prompt": "a", **given}).notes
    assert note in said
    assert reader.read({"prompt": "a", "alpha": 0.8, "motion_module_lora_type": "ZoomIn"}).notes == []


def test_an_image_model_and_a_motion_module_go_together(models: Path) -> None:
    rendering = Rendering(Settings(models=models))
    with pytest.raises(
        UserError, match=r"^motion_module=Motion_Module/mm_sd_v14.ckpt: no image model .* toonyou_beta3$"
    ):
        rendering.render({"prompt": "a", "motion_module": "mm_sd_v14"})
    with pytest.raises(
        UserError, match=r"^model=DreamBooth_LoRA/toonyou_beta3: .* give motion_module, one of mm_sd_v14$"
    ):
        rendering.render({"prompt": "a", "model": "toonyou_beta3"})


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"aspect": "1:1"}, (64, 64)),
        ({"aspect": "16:9"}, (88, 48)),
        ({"aspect": "9:16", "width": 72}, (72, 128)),
        ({"aspect": "3:2", "height": 64}, (96, 64)),
    ],
)
def test_an_aspect_is_a_width_and_a_height(given: dict[str, Any], size: tuple[int, int], reader: Reader) -> None:
    request = reader.read({"prompt": "a", **given}).request
    assert (request.width, request.height) == size


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (MemoryError(), UserError, "^out of memory: try fewer frames \\(num_frames\\), a smaller width and height"),
        (UserError("`width` of {models}/x.ckpt and {sent}"), UserError, "^width of x.ckpt and image$"),
        (RuntimeError("no kernel"), RuntimeError, "^no kernel$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_goes_wrong_in_a_render_is_said_in_our_names(
    raised: Exception, error: type[Exception], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback of what nobody foresaw goes to the logs alone."""
    sent = tmp_path / "tmp1image.png"
    if isinstance(raised, UserError):
        raised = UserError(str(raised).format(models=tmp_path, sent=sent))
    rendering = Rendering(Settings(models=tmp_path))
    with mock.patch.object(rendering._renderer, "render", side_effect=raised), pytest.raises(error, match=message):
        rendering.render({"prompt": "a", "image": sent})
    assert ("Traceback" in capsys.readouterr().out) == (error is RuntimeError)


# -- camera moves, and settings of a deployment ------------------------------------------------------------------------


def test_a_camera_move_without_its_motion_lora_says_which_file_is_missing(reader: Reader) -> None:
    given = {"prompt": "a", "model": "toonyou_beta3", "motion_module": "mm_sd_v14", "pan_left_motion_strength": 1.0}
    message = "the MotionLoRA PanLeft is not here; put v2_lora_PanLeft.ckpt into models/MotionLoRA"
    with pytest.raises(UserError, match=f"^pan_left_motion_strength: {message}"):
        reader.read(given)
    with pytest.raises(UserError, match=f"^motion_loras: {message}"):
        reader.read({**given, "pan_left_motion_strength": 0.0, "motion_loras": ["PanLeft:0.5"]})


def test_models_go_by_short_names_where_that_is_clear(models: Path, tmp_path: Path) -> None:
    found = Models(models)
    for name in ("mm_sd_v14", "mm_sd_v14.ckpt", "mm_sd_v14.safetensors", "Motion_Module/mm_sd_v14.ckpt"):
        assert found.find(name, "motion_module") == str(models / "Motion_Module/mm_sd_v14.ckpt")
    assert found.choices("model") == ("bundled", "bundled/neon", "toonyou_beta3")
    assert found.choices("motion_module") == ("bundled", "mm_sd_v14"), "the adapter is none"
    for name in ("a/one.safetensors", "b/one.safetensors"):
        (tmp_path / "DreamBooth_LoRA" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "DreamBooth_LoRA" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"'one' is there several times \(a/one.safetensors, b/one.safetensors\)"):
        Models(tmp_path).find("one", "loras")
    assert Models(tmp_path).find("a/one.safetensors", "loras").endswith("a/one.safetensors")


def test_a_deployment_decides_defaults_and_limits(tmp_path: Path, models: Path) -> None:
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "settings.yaml").write_text(
        "defaults: {model: toonyou_beta3, motion_module: mm_sd_v14, steps: 12, quality: 90, output_format: gif}\n"
        "limits: {steps: 30}\n"
    )
    inputs = {item.name: item for item in schema.inputs_of(tmp_path)}
    assert inputs["steps"].le == inputs["num_inference_steps"].le == 30 and inputs["quality"].default == 90
    assert inputs["steps"].default is None and inputs["steps"].description.endswith("(12).")
    assert inputs["model"].choices == ("bundled", "bundled/neon", "toonyou_beta3")
    assert inputs["output_format"].description.endswith("(gif).")
    reader = Reader(read_settings(tmp_path))
    asked = reader.read({"prompt": "a"})
    assert (asked.request.steps, asked.suffix) == (12, ".gif")
    assert reader.read({"prompt": "a", "num_inference_steps": 5}).request.steps == 5
    with pytest.raises(UserError, match=r"num_inference_steps=31: expected 1 to 30"):
        reader.read({"prompt": "a", "num_inference_steps": 31})


def test_a_default_motion_module_is_not_put_into_the_bundled_model(models: Path) -> None:
    reader = Reader(Settings(models=models, defaults={"model": "toonyou_beta3", "motion_module": "mm_sd_v14"}))
    assert reader.read({"prompt": "a", "model": "bundled"}).request.motion_module is None
    asked = reader.read({"prompt": "a", "model": "bundled", "motion_module": "mm_sd_v14"})
    assert asked.request.motion_module == str(models / "Motion_Module/mm_sd_v14.ckpt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit: {}", "unknown section of settings.yaml 'limit'; did you mean 'limits'"),
        ("defaults: {step: 3}", "unknown input in defaults of settings.yaml 'step'; did you mean 'steps'"),
        ("defaults: {image: a.png}", "unknown input in defaults of settings.yaml 'image'"),
        ("limits: {steps: many}", "settings.yaml: the limit of steps is no number"),
        ("defaults: 3", "settings.yaml: defaults holds no inputs"),
        ("models_in_memory: 0", "settings.yaml: models_in_memory is a whole number, at least 1"),
    ],
)
def test_settings_that_will_not_do_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_settings(tmp_path)

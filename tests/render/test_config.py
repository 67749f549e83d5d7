"""Every form of configuration becomes the same validated request, or one clear message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import ROOT

from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.render import AnimateRequest, build_request, load_config, load_result, parse_config, to_original
from animatediff.render.read.original import KNOWN

PROMPTS = ROOT / "configs" / "prompts"


def test_list_form() -> None:
    (request,) = parse_config(
        """
- dreambooth_path: "toon.safetensors"
  lora_model_path: ""
  motion_module: "mm.ckpt"
  adapter_lora_path: "adapter.ckpt"
  motion_module_lora_configs:
    - path: "zoom.ckpt"
      alpha: 0.7
  controlnet_path: ""
  controlnet_images: ""
  inference_config: "configs/inference/none.yaml"
  seed: [18446744073709551615, 2]
  steps: 25
  guidance_scale: 7.5
  W: 256
  H: 320
  L: 8
  prompt: [a, b]
  n_prompt: [c]
""",
        pretrained_model_path="base.safetensors",
    )
    assert (request.model, request.motion_module) == ("toon.safetensors", "mm.ckpt")  # dreambooth replaces the base
    assert (request.width, request.height, request.num_frames) == (256, 320, 8)
    assert request.loras == ()
    assert request.domain_adapter.path == "adapter.ckpt"
    assert request.motion_loras[0].scale == 0.7
    assert request.seed == (2**64 - 1, 2)
    assert (request.num_clips, request.clip(1).prompt, request.clip(1).negative_prompt) == (2, ("b",), ("c",))


def test_mapping_of_2023() -> None:
    requests = parse_config(
        "toon:\n  base: sd.ckpt\n  path: style.safetensors\n  motion_module: [m1.ckpt, m2.ckpt]\n  seed: [1, 2]\n"
        "  steps: 20\n  guidance_scale: 7\n  lora_alpha: 0.6\n  prompt: [a, b]\n  n_prompt: [x, y]\n"
        "full:\n  base: ''\n  path: whole.safetensors\n  motion_module: m1.ckpt\n  prompt: c\n"
    )
    assert [r.motion_module for r in requests] == ["m1.ckpt", "m2.ckpt", "m1.ckpt"]
    assert (requests[0].model, requests[0].loras[0].path, requests[0].loras[0].scale) == (
        "sd.ckpt",
        "style.safetensors",
        0.6,
    )
    assert (requests[2].model, requests[2].loras) == ("whole.safetensors", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- prompt: a\n  stepz: 3", "line 2.*'stepz'.*did you mean 'steps'"),
        ("prompt: a\nwidth: 100", "line 2.*width=100.*96 or 104"),
        ("- prompt: a\n  L: 0", "line 2.*num_frames=0"),
        ("prompt: []", "no prompt"),
        ("prompt: a\nseed: 18446744073709551616", "64 bits"),
        ("prompt: a\ncontrolnet_path: x.ckpt", "a SparseCtrl encoder is given.*but no images"),
        ("prompt: a\nprompt: b", "given twice"),
        ("- prompt: [a, b, c]\n  seed: [1, 2]", "3 x prompt, 2 x seed"),
        ("prompt: a\nwindow: 8\noverlap: 8", "less than window"),
        ("prompt: a\nloras: [{path: x, scal: 1}]", "did you mean 'scale'"),
        ("a: [", "not valid YAML"),
        ("", "found nothing"),
        ("- 3", "run 1"),
        ("prompt: a\nguidance_scale: .nan", "guidance_scale"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(text)


def test_paths_are_tried_beside_the_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "there" / "mm.ckpt").touch()
    (tmp_path / "here" / "base.ckpt").touch()
    (tmp_path / "there" / "run.yaml").write_text("{prompt: a, model: base.ckpt, motion_module: mm.ckpt}")
    monkeypatch.chdir(tmp_path / "here")
    (request,) = load_config(tmp_path / "there" / "run.yaml")
    assert Path(request.model).exists() and Path(request.motion_module) == tmp_path / "there" / "mm.ckpt"


def test_roots_decide_where_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("cwd/models", "served"):
        (tmp_path / place / "Motion_Module").mkdir(parents=True)
        (tmp_path / place / "Motion_Module" / "mm.ckpt").touch()
    (tmp_path / "run.yaml").write_text("{prompt: a, motion_module: mm.ckpt, vae: models/Motion_Module/mm.ckpt}")
    monkeypatch.chdir(tmp_path / "cwd")
    (here,) = load_config(tmp_path / "run.yaml")
    assert here.motion_module == here.vae == "models/Motion_Module/mm.ckpt"
    (served,) = load_config(tmp_path / "run.yaml", roots=Roots(models=(tmp_path / "served",), files=()))
    assert served.motion_module == str(tmp_path / "served" / "Motion_Module" / "mm.ckpt")
    assert served.vae == "models/Motion_Module/mm.ckpt", "as it is written: there is none"


@pytest.mark.parametrize("path", sorted(PROMPTS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_configurations(path: Path) -> None:
    for request in load_config(path):
        assert request.model and (request.motion_module or request.model == "bundled")
        assert len(set(request.prompt)) >= 2 or request.prompt_travel
        again = parse_config(yaml.safe_dump([to_original(request)]))
        assert again == [request]


def test_a_request_survives_its_yaml() -> None:
    request = build_request(
        {
            "prompt": ["a", "b"],
            "seed": [1, 2**64 - 1],
            "loras": [{"path": "a", "scale": 0.3}, "b"],
            "width": 64,
            "fps": 12,
        }
    )
    assert parse_config(yaml.safe_dump([to_original(request)])) == [request]
    assert AnimateRequest(**request.stored()) == request


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def refusal(text: str) -> str | None:
    """The message with which a configuration is refused, None if it is accepted; anything but UserError fails."""
    try:
        assert parse_config(text), "accepted, so it holds at least one run"
    except UserError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(junk)
def test_any_values_give_requests_or_a_message(value: object) -> None:
    message = refusal(yaml.safe_dump(value, allow_unicode=True))
    assert message is None or message


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@#?,. \n\t0123456789~<=", max_size=60))
def test_any_text_gives_requests_or_a_message(text: str) -> None:
    message = refusal(text)
    assert message is None or message


plausible = {
    "prompt": st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=3),
    "n_prompt": st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=3),
    "seed": st.integers(-2, 2**64) | st.lists(st.integers(-2, 2**64), max_size=3),
    "steps": st.integers(-1, 1001),
    "guidance_scale": st.floats(),
    "W": st.integers(-8, 2048),
    "L": st.integers(-1, 64),
    "window": st.integers(-1, 64),
    "overlap": st.integers(-1, 64),
    "path": st.text(max_size=6),
    "base": st.text(max_size=6),
    "motion_module": st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=3),
    "motion_module_lora_configs": st.lists(
        st.dictionaries(st.sampled_from(("path", "alpha")), st.text(max_size=4) | st.floats(), max_size=2), max_size=2
    ),
    "lora_model_path": st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=2),
    "lora_alpha": st.floats(),
    "embeddings": st.lists(st.dictionaries(st.sampled_from(("path", "token")), st.text(max_size=4)), max_size=2),
    "fps": st.floats(),
    "dtype": st.sampled_from(("float16", "float64", "")),
    "quality": st.integers(-1, 101),
}
scrap = st.sampled_from([None, True, -1, 0.5, "", "x", [], [None], {}, {"path": 3}])
nearly_right = st.dictionaries(st.sampled_from(sorted(plausible)), st.integers(0, 9), min_size=1, max_size=5).flatmap(
    lambda keys: st.fixed_dictionaries(
        {"prompt": plausible["prompt"]} | {key: plausible[key] if often else scrap for key, often in keys.items()}
    )
)


@settings(max_examples=400, deadline=None)
@given(nearly_right | st.lists(nearly_right, min_size=1, max_size=2))
def test_nearly_right_runs_give_requests_or_a_message(value: object) -> None:
    """Runs that come far enough to be checked value by value; what is accepted survives being written down."""
    text = yaml.safe_dump(value, allow_unicode=True)
    if (message := refusal(text)) is not None:
        assert message
        return
    for request in parse_config(text):
        assert parse_config(yaml.safe_dump([to_original(request)], allow_unicode=True)) == [request]
        assert AnimateRequest(**request.stored()) == request.model_copy(update={"out": None, "download": False})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scrap | st.fixed_dictionaries({"request": scrap | nearly_right}))
def test_any_sidecar_gives_a_request_or_a_message(tmp_path: Path, value: object) -> None:
    path = tmp_path / "clip.mp4.json"
    path.write_text(json.dumps(value))
    try:
        said = f"{path}: {len(load_result(path).prompt)} prompts"
    except UserError as error:
        said = str(error)
    assert str(path) in said

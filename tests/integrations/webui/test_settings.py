"""Settings: names and defaults that users know, what is refused, and the text that is kept with an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from animatediff_webui.settings import DEFAULTS, FACTS, Settings, page_names

from animatediff.errors import UserError

KNOWN = {
    "enable": ("Enable AnimateDiff", False), "model": ("Motion module", "mm_sd15_v3.safetensors"),
    "format": ("Save format", ("GIF", "PNG")), "video_length": ("Number of frames", 0), "fps": ("FPS", 8),
    "loop_number": ("Display loop number", 0), "closed_loop": ("Closed loop", "R-P"),
    "batch_size": ("Context batch size", 16), "stride": ("Stride", 1), "overlap": ("Overlap", -1),
    "interp": ("Frame Interpolation", "Off"), "interp_x": ("Interp X", 10),
    "freeinit_enable": ("Enable FreeInit", False),
    "freeinit_filter": ("Filter Type", "butterworth"), "freeinit_ds": ("d_s", 0.25), "freeinit_dt": ("d_t", 0.25),
    "freeinit_iters": ("FreeInit Iterations", 3),
    "video_source": ("Video source", ""), "video_path": ("Video path", ""),
    "mask_path": ("Mask path", ""), "latent_power": ("Latent power", 1.0), "latent_scale": ("Latent scale", 32.0),
    "last_frame": ("Optional last frame", None), "latent_power_last": ("Latent power of last frame", 1.0),
    "latent_scale_last": ("Latent scale of last frame", 32.0), "request_id": ("Request id", ""),
}  # fmt: skip
"""Labels and defaults of sd-webui-animatediff, by its names in the API."""


def test_names_and_defaults_are_those_that_users_know() -> None:
    assert {name: (facts.label, DEFAULTS[name]) for name, facts in FACTS.items()} == KNOWN
    assert Settings.from_api({}) == Settings()


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"video_length": 16.0}, "video_length", 16),
        ({"format": "mp4"}, "format", ("MP4",)),
        ({"format": ["gif", "Frame", "GIF"]}, "format", ("GIF", "Frame")),
        ({"overlap": -1}, "overlap", -1),
        ({"latent_power": 2}, "latent_power", 2.0),
    ],
)
def test_values_are_read_in_their_type(given: dict[str, Any], name: str, value: Any) -> None:
    read = getattr(Settings.from_api(given), name)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"video_lenght": 3}, "unknown setting 'video_lenght'; did you mean 'video_length'?"),
        ({3: 3}, "unknown setting 3; known are enable, model"),
        ({"enable": 1}, "Enable AnimateDiff (enable) is true or false, got 1"),
        ({"fps": True}, "FPS (fps) is a whole number from 1 to 240, got True"),
        ({"fps": "8"}, "FPS (fps) is a whole number from 1 to 240, got '8'"),
        ({"fps": 7.5}, "FPS (fps) is a whole number from 1 to 240, got 7.5"),
        ({"fps": float("nan")}, "FPS (fps) is a whole number from 1 to 240, got nan"),
        ({"stride": 10**400}, "Stride (stride) is a whole number from 1 to 32, got 1000000"),
        ({"closed_loop": "R-p"}, "Closed loop (closed_loop) is one of N, R-P, R+P, A, got 'R-p'; did you mean 'R-P'?"),
        ({"format": ["GIFF"]}, "Save format (format): unknown format 'GIFF'; did you mean 'GIF'?"),
        ({"format": []}, "Save format (format): choose at least one of GIF"),
        ({"format": 3}, "Save format (format) is a list of GIF"),
        ({"model": None}, "Motion module (model) is a text, got None"),
        ({"request_id": "../../x"}, "Request id (request_id) is at most 64 letters, digits, - and _, got '../../x'"),
        ({"request_id": "x" * 65}, "Request id (request_id) is at most 64 letters"),
        ({"request_id": "a\0"}, "Request id (request_id) is at most 64 letters"),
        ("v3", "AnimateDiff: args[0] is an object of settings, got 'v3'"),
    ],
)
def test_wrong_values_are_named(given: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        Settings.from_api(given)
    assert said in str(error.value)


def test_all_that_is_wrong_is_one_message() -> None:
    with pytest.raises(UserError, match=r"fps.*; Interp X.*; unknown setting 'x'"):
        Settings.from_api({"fps": 0, "interp_x": 11, "x": 1})


def test_the_page_gives_its_settings_in_order() -> None:
    for img2img in (False, True):
        names = page_names(img2img=img2img)
        values = [{"fps": 12, "enable": True, "format": ["MP4"]}.get(name, DEFAULTS[name]) for name in names]
        wanted = replace(Settings(), fps=12, enable=True, format=("MP4",))
        assert Settings.from_ui(values, img2img=img2img) == wanted
        assert Settings.from_ui([{"fps": 12}, *values[1:]], img2img=img2img) == replace(Settings(), fps=12)
        with pytest.raises(UserError, match="reload the page"):
            Settings.from_ui(values[:-1], img2img=img2img)
    assert set(page_names(img2img=True)) - set(page_names(img2img=False)) >= {
        "latent_power",
        "video_path",
        "last_frame",
    }


def test_text_kept_with_an_image_restores_the_settings() -> None:
    changed = Settings.from_api(
        {
            "model": 'my, "odd": module.ckpt', "video_length": 24, "fps": 12, "loop_number": 2, "closed_loop": "A",
            "batch_size": 8, "stride": 2, "overlap": 3, "interp": "FILM", "interp_x": 4, "freeinit_enable": True,
            "freeinit_filter": "ideal", "freeinit_ds": 0.5, "freeinit_dt": 0.1, "freeinit_iters": 5,
            "latent_power": 2.0, "latent_scale": 16.5, "latent_power_last": 3.0, "latent_scale_last": 8.0,
        }
    )  # fmt: skip
    text = changed.to_infotext(mm_hash="0123abcd")
    found, strange = Settings.from_infotext(text)
    assert strange == []
    assert found == {name: getattr(changed, name) for name, facts in FACTS.items() if facts.infotext}
    plain, _ = Settings.from_infotext(Settings().to_infotext())
    assert plain.items() <= {name: DEFAULTS[name] for name in FACTS}.items()
    assert not {"latent_power", "freeinit_filter"} & set(plain)


def test_text_of_the_older_extension_is_read_and_what_is_unknown_is_named() -> None:
    text = (
        "enable: True, model: mm_sd15_v2.safetensors, video_length: 16, fps: 8, mm_hash: 69ed0f5f, batch: 3, version: 2"
    )
    found, strange = Settings.from_infotext(text)
    assert found == {"enable": True, "model": "mm_sd15_v2.safetensors", "video_length": 16, "fps": 8}
    assert strange == ["batch"]
    with pytest.raises(UserError, match=r"FPS \(fps\) is a whole number"):
        Settings.from_infotext("fps: many")


@pytest.mark.parametrize(
    ("text", "model"),
    [(r'model: "D:\mm\v3.ckpt", fps: 12', r"D:\mm\v3.ckpt"), ('model: "v3.ckpt, fps: 12', "v3.ckpt")],
)
def test_text_written_by_hand_is_read_where_its_quotes_are_no_json(text: str, model: str) -> None:
    assert Settings.from_infotext(text) == ({"model": model, "fps": 12}, [])

"""Names that had another place once go on working, and say where they are now."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("old", "names", "new"),
    [
        ("animatediff.video", ("read_video", "write_video"), "animatediff.media"),
        ("animatediff.config", ("build_request", "load_config"), "animatediff.render"),
        ("animatediff.pipelines.render", ("render", "render_runs"), "animatediff.render.render"),
        ("animatediff.control.sparsectrl", ("SparseCtrl",), "animatediff.models.sparsectrl"),
        ("animatediff.control.controlnet", ("ControlNetInput",), "animatediff.sampling.controlnet"),
        ("animatediff.bundled.watermark", ("watermark_score",), "animatediff.sprites.watermark"),
    ],
)
def test_documented_names_work_in_their_former_place(old: str, names: tuple[str, ...], new: str) -> None:
    for name in names:
        with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
            found = getattr(import_module(old), name)
        assert found is getattr(import_module(new), name)


def test_what_was_never_there_is_not_found() -> None:
    with pytest.raises(AttributeError):
        _ = import_module("animatediff.video").no_such_name

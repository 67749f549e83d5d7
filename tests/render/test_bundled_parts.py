"""Parts in place of the bundled model's own: they are used, as in a pipeline that is made with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.close import relative

from animatediff.bundled import bundled_path
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render.models import ModelSpec, load_model
from animatediff.render.prepare import complete
from animatediff.render.request import build_request

CALL: dict[str, Any] = {
    "num_frames": 2, "num_inference_steps": 1, "height": 32, "width": 32, "guidance_scale": 1.0, "output_type": "pt"
}  # fmt: skip


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_part_of_the_bundled_model_can_be_replaced(tmp_path: Path, part: str) -> None:
    own = AnimateDiffPipeline.from_bundled()
    changed = getattr(own, part)
    with torch.no_grad():
        last = "decoder.conv_out.bias" if part == "vae" else "final_layer_norm.bias"
        next(value for name, value in changed.named_parameters() if name.endswith(last)).add_(0.1)
    changed.save_pretrained(tmp_path / part)
    request = build_request({"prompt": "a fox", part: str(tmp_path / part), "device": "cpu"})
    loaded = load_model(ModelSpec.of(complete(request)))
    plain = AnimateDiffPipeline.from_bundled()
    given = AnimateDiffPipeline.from_bundled(**{part: tmp_path / part})
    expected, *others, without = [
        pipe("a fox", generator=torch.Generator().manual_seed(1), **CALL).frames for pipe in (own, loaded, given, plain)
    ]
    for frames in others:
        assert relative(frames, expected) < 1e-6  # float32
    assert relative(without, expected) > 1e-3
    assert loaded.family is not None and loaded.family.name == "bundled"


def test_the_bundled_model_takes_a_motion_module_of_memory() -> None:
    module = AnimateDiffPipeline.from_bundled().motion_adapter
    pipe = AnimateDiffPipeline.from_bundled(motion_adapter=module)
    assert pipe.attachment is not None and bundled_path().is_dir()
    assert AnimateDiffPipeline.from_bundled(motion_adapter=None).attachment is None

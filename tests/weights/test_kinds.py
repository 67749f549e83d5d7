"""The table of kinds against the names that each kind's own code gives its tensors, and what `inspect` advises."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT
from support.weight_files import published, write_hollow

from animatediff.errors import UserError
from animatediff.render.options import FLAGS
from animatediff.weights import kind_rules
from animatediff.weights.kinds import KINDS
from animatediff.weights.recognise import Recognised, check_setting, recognise, recognise_header
from animatediff.weights.storage.files import Header, TensorInfo

PUBLIC: dict[str, Any] = json.loads(gzip.decompress((ROOT / "tests" / "data" / "public_keys.json.gz").read_bytes()))
"""Name -> source (a repository, or a class of an installed library), kind, variant, base, and key -> shape.

Of names that differ in numbers alone, the first one stands for all.
"""

for name in ("pia.ckpt", "AnimateLCM_sd15_i2v"):  # motion modules like others by now, judged by families
    del PUBLIC[name]


def header_of(name: str) -> Header:
    tensors = {key: TensorInfo(tuple(shape), "float16") for key, shape in PUBLIC[name]["keys"].items()}
    return Header(path=Path("file.safetensors"), format="safetensors", size=1, tensors=tensors, metadata={})


def seen(name: str) -> Recognised:
    return recognise_header(header_of(name))


@pytest.mark.parametrize("name", PUBLIC)
def test_names_of_public_code_are_recognised(name: str) -> None:
    entry, found = PUBLIC[name], seen(name)
    assert found.kind == entry["kind"], found.evidence
    assert entry["variant"] in (None, found.variant)
    assert entry["base"] in (None, found.base)
    assert found.evidence and entry["source"]


def test_every_kind_and_every_rule_has_its_public_names() -> None:
    ours = {"motion_module", "motion_lora", "domain_adapter", "base_model", "unknown"}  # full lists in key_shapes.json
    assert {entry["kind"] for entry in PUBLIC.values()} | ours == KINDS.keys()
    found = [(item.kind, item.variant) for item in map(seen, PUBLIC)]
    for rules in (kind_rules.FIRST, kind_rules.CONTROLNETS, kind_rules.RELATIVES, kind_rules.LAST):
        for rule in rules:
            assert (rule.kind, rule.variant) in found, f"no public names for {rule}"


def test_settings_of_the_table_are_options() -> None:
    """Each setting has a flag, and a kind that it is first of, by which messages name what it wants."""
    named = {setting for facts in KINDS.values() for setting in facts.settings}
    named |= {word for facts in KINDS.values() for word in re.findall(r"`(\w+)`", facts.instead or "")}
    assert named <= FLAGS.keys()
    for kind, facts in KINDS.items():
        assert facts.settings or facts.instead or kind == "unknown", kind
        for setting in facts.settings:
            assert any(other.settings[:1] == (setting,) for other in KINDS.values()), setting


def test_a_setting_takes_the_kinds_that_are_recommended_for_it_and_no_others() -> None:
    settings = {setting for facts in KINDS.values() for setting in facts.settings}
    for name in PUBLIC:
        found = seen(name)
        for setting in settings:
            if setting in KINDS[found.kind].settings:
                check_setting(found, setting)
            else:
                with pytest.raises(UserError, match=re.escape(KINDS[found.kind].advice)):
                    check_setting(found, setting)


@pytest.mark.parametrize(
    ("name", "setting", "base", "message"),
    [
        (
            "ip-adapter_sdxl",
            "ip_adapter",
            "sd1",
            "an IP-Adapter for SDXL, but the base model is Stable Diffusion 1",
        ),
        (
            "control_v11p_sd15.pth",
            "controlnet",
            "sdxl",
            "a ControlNet for Stable Diffusion 1.x, but the base model is SDXL",
        ),
        ("kohya LoRA sd2", "loras", "sd1", "for Stable Diffusion 2.x.*width 1024"),
        ("SDXL embedding", "embeddings", "sd1", "embedding for SDXL"),
    ],
)
def test_files_for_another_base_model(name: str, setting: str, base: str, message: str) -> None:
    found = seen(name)
    check_setting(found, setting, bases=(found.base or "",))
    check_setting(found, setting)
    with pytest.raises(UserError, match=message):
        check_setting(found, setting, bases=(base,))


def test_pickles_that_hold_more_than_named_tensors(tmp_path: Path) -> None:
    """Networks by number, an optimizer, a state of training of ours, two models in one, a bare tensor."""
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.zeros(1, 4)).sum().backward()
    optimizer.step()
    module = {"linear.0.weight": torch.zeros(2, 1), "linear.0.bias": torch.zeros(2)}
    lora = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"
    contents: dict[str, Any] = {
        "hypernetwork": {320: (module, module), 768: (module, module), "step": 1, "layer_structure": [1, 2, 1]},
        "training_state": optimizer.state_dict(),
        "photomaker": {
            "id_encoder": {"visual_projection_2.weight": layer.weight},
            "lora_weights": {lora: layer.weight},
        },
        "textual_inversion": torch.zeros(1, 768),
        "ip_adapter_faceid": {
            "image_proj": {"proj.0.weight": torch.zeros(1024, 512)},
            "ip_adapter": {"0.to_q_lora.down.weight": layer.weight, "1.to_k_ip.weight": torch.zeros(2, 768)},
        },
    }
    contents["state of ours"] = {"step": 1, "weights": {"a.weight": layer.weight}, "optimiser": optimizer.state_dict()}
    for kind, value in contents.items():
        torch.save(value, tmp_path / "file.pt")
        assert recognise(tmp_path / "file.pt").kind == {"state of ours": "training_state"}.get(kind, kind)


def test_bases_of_motion_loras(tmp_path: Path) -> None:
    """The fourth level is SD 1.x's; of a part of the levels, widths tell."""
    v2 = published("v2_lora")
    xl = {key: shape for key, shape in v2.items() if "_blocks.3." not in key}
    xl = {key: tuple(n // 2 if "up_blocks" in key and n != 64 else n for n in shape) for key, shape in xl.items()}
    low = {key: shape for key, shape in v2.items() if key.startswith("down_blocks.0.")}
    for shapes, base in ((v2, "sd1"), (xl, "sdxl"), (low, None)):
        found = recognise(write_hollow(tmp_path / "a.safetensors", shapes))
        assert (found.kind, found.base) == ("motion_lora", base)

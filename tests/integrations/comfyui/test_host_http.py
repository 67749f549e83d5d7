"""The pack in a real ComfyUI, over HTTP: nodes, example workflows, old workflows, mistakes, interrupts.

COMFYUI_ROOT names the host's folder, COMFYUI_PYTHON the Python of its environment.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support import comfy_host

if comfy_host.is_real():
    pytest.skip("this process is inside of the host", allow_module_level=True)

from support.comfy_files import CHECKPOINT, MODULES
from support.comfy_graphs import CASES, SAMPLER, applied, node, sampled, windows
from support.comfy_server import PACK, Host, HostError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
OURS = {
    *("AnimateDiffLoadMotionModule", "AnimateDiffMotionLora", "AnimateDiffDomainAdapter", "AnimateDiffApply"),
    *("AnimateDiffContextWindows", "AnimateDiffLoadSparseCtrl", "AnimateDiffSparseCtrlApply"),
    *("AnimateDiffPIA", "AnimateDiffI2V", "AnimateDiffLoadCameraCtrl", "AnimateDiffCameraCtrl"),
    *("AnimateDiffPromptTravel", "AnimateDiffAnimate"),
}


@pytest.fixture(scope="module")
def nodes(host: Host) -> dict[str, Any]:
    """What the host lists."""
    return host.get("/object_info")


@pytest.fixture(scope="module")
def ade() -> ModuleType:
    """The translation of old workflows, as the command line has it."""
    folder = PACK / "ade"
    spec = importlib.util.spec_from_file_location(
        "ade", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules["ade"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def api_of(page: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """The API format of a workflow of the page, by what the host lists of its nodes."""
    source = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    found = {}
    for raw in page["nodes"]:
        if raw["type"] not in nodes:
            continue
        named = [socket["widget"]["name"] for socket in raw["inputs"] if socket.get("widget")]
        values = [value for value in raw.get("widgets_values", ()) if value not in ("fixed", "randomize", "image")]
        inputs = dict(zip(named, values, strict=False))
        inputs |= {socket["name"]: source[socket["link"]] for socket in raw["inputs"] if socket.get("link")}
        found[str(raw["id"])] = {"class_type": raw["type"], "inputs": inputs}
    return found


def small(graph: dict[str, Any]) -> dict[str, Any]:
    """The workflow at a size and a number of steps that take no time."""
    for entry in graph.values():
        for name, value in (("width", 64), ("height", 64), ("steps", 1)):
            if name in entry["inputs"]:
                entry["inputs"][name] = value
        if entry["inputs"].get("batch_size", 0) > 32:
            entry["inputs"]["batch_size"] = 18  # more than a window
    return graph


def test_the_host_lists_the_nodes_of_the_pack_and_its_workflows(host: Host, nodes: dict[str, Any]) -> None:
    assert nodes.keys() >= OURS
    for name in OURS:
        assert nodes[name]["category"] == "AnimateDiff" and nodes[name]["description"]
        inputs = [facts for part in nodes[name]["input"].values() for facts in part.values()]
        assert all(len(facts) > 1 for facts in inputs if isinstance(facts[0], list))
    templates = host.get("/workflow_templates")
    assert sorted(templates["animatediff"]) == [file.stem for file in EXAMPLES]
    for file in EXAMPLES:  # the page shows it beside the name
        assert host.client.get(f"/api/workflow_templates/animatediff/{file.stem}.jpg").status_code == 200


def test_shapes_of_the_translation_are_those_of_the_host(ade: ModuleType, nodes: dict[str, Any]) -> None:
    shapes = importlib.import_module("ade.shapes")
    for name, shape in shapes.SHAPES.items():
        listed = [
            (key, facts[0] if isinstance(facts[0], str) else "COMBO", facts[1].get("default") if facts[1:] else None)
            for part in ("required", "optional")
            for key, facts in nodes[name]["input"].get(part, {}).items()
            if not (facts[1:] and facts[1].get("hidden"))
        ]
        ours = [entry for entry in shape.inputs if "." not in entry[0]]
        assert [entry[:2] for entry in ours] == [entry[:2] for entry in listed], name
        for (key, kind, default), (_, _, wanted) in zip(ours, listed, strict=True):
            if kind not in shapes.SOCKETS and default is not None and wanted is not None and key != "text":
                assert default == wanted, (name, key)
        assert [kind for _, kind in shape.outputs] == nodes[name]["output"], name


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_workflows_run(host: Host, nodes: dict[str, Any], file: Path) -> None:
    page = json.loads(file.read_text())
    graph = small(api_of(page, nodes))
    assert len(graph) >= len(page["nodes"]) - 1  # a note is no node of the host
    (save,) = [name for name, entry in graph.items() if entry["class_type"] == "SaveVideo"]
    (video,) = host.run(graph)[save]["images"]
    content = host.file(video)
    assert video["filename"].startswith("AnimateDiff") and content[4:8] == b"ftyp"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.at == SAMPLER])
def test_old_workflows_give_the_frames_of_ours(host: Host, ade: ModuleType, name: str) -> None:
    case = CASES[name]
    found = host.latents(ade.translate(case.old).workflow, SAMPLER)
    # no input may come out of the host's cache alone: the sampler of the other graph has another id
    graph = {key if key != SAMPLER else "900": entry for key, entry in case.ours.items()}
    assert torch.equal(found, host.latents(graph, "900"))
    assert found.std() > 0.1 and not torch.equal(found[0], found[1])


def test_the_host_exchanges_a_node_of_evolved_by_itself(host: Host) -> None:
    assert host.get("/node_replacements")["ADE_EmptyLatentImageLarge"][0]["new_node_id"] == "EmptyLatentImage"
    old = {**sampled(["1", 0]), "4": node("ADE_EmptyLatentImageLarge", width=64, height=64, batch_size=4)}
    old["4"]["_meta"] = {"title": "frames"}  # the host's exchange fails without it
    assert torch.equal(host.latents(old, SAMPLER), host.latents(sampled(["1", 0]), SAMPLER))


def test_prompt_travel_changes_frames_and_windows_see_their_rows(host: Host) -> None:
    def travel(frames: int, first: str, second: str) -> dict[str, Any]:
        return node("AnimateDiffPromptTravel", clip=["1", 1], num_frames=frames, hold=0.0,
                    text=f"0: {first}\n{frames - 1}: {second}")  # fmt: skip

    plain = {**sampled(["6", 0]), **applied()}
    moving = {**sampled(["6", 0], positive=["7", 0]), **applied(), "7": travel(4, "a fox in the snow", "a car")}
    same = {**sampled(["6", 0], positive=["7", 0]), **applied(),
            "7": travel(4, "a fox in the snow", "a fox in the snow")}  # fmt: skip
    wanted, found = host.latents(plain, SAMPLER), host.latents(moving, SAMPLER)
    assert (host.latents(same, SAMPLER) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert (found - wanted).abs().max() > 1e-3 * wanted.abs().max()
    long = {**sampled(["8", 0], frames=8, positive=["7", 0]), **applied(), "7": travel(8, "a fox", "a car"),
            "8": windows(["6", 0], context_length=4, context_overlap=2)}  # fmt: skip
    assert host.latents(long, SAMPLER).shape[0] == 8


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"5": {"motion_module": "none.ckpt"}}, "none.ckpt"),
        ({"5": {"motion_module": "mm_sdxl_v10_beta.ckpt"}}, "SDXL"),
        ({"6": {"scale_curve": "0=fast"}}, "fast"),
        ({"7": {"text": "0: a\n9: b"}}, "the clip has 4 frames"),
        ({"7": {"num_frames": 6}}, "prompts for 6 frames, and the clip has 4"),
        ({"4": {"batch_size": 0}}, "batch_size"),
    ],
)
def test_a_mistake_is_said_in_the_hosts_way_and_the_next_prompt_works(
    host: Host, inputs: dict[str, Any], message: str
) -> None:
    good = {**sampled(["6", 0], positive=["7", 0]), **applied(),
            "7": node("AnimateDiffPromptTravel", clip=["1", 1], num_frames=4, text="0: a fox")}  # fmt: skip
    before = host.latents(good, SAMPLER)
    bad = json.loads(json.dumps(good))
    for name, changed in inputs.items():
        bad[name]["inputs"] |= changed
    with pytest.raises(HostError, match=message):
        host.latents(bad, SAMPLER)
    graph = {**good, SAMPLER: {**good[SAMPLER], "inputs": {**good[SAMPLER]["inputs"], "seed": 3}}}
    assert torch.equal(host.latents(graph, SAMPLER), before)


def test_an_interrupt_in_the_middle_leaves_the_host_clean(host: Host) -> None:
    image = host.latents(sampled(["1", 0], steps=3), SAMPLER)
    clip = host.latents({**sampled(["6", 0], steps=3), **applied()}, SAMPLER)
    long = {**sampled(["6", 0], frames=16, steps=500), **applied()}
    prompt = host.queue({**long, "30": node("SaveLatent", samples=[SAMPLER, 0], filename_prefix="never")})
    host.wait_for(lambda: host.steps() > 1)
    host.interrupt()
    with pytest.raises(HostError) as ended:
        host.finished(prompt)
    assert ended.value.args[0] == "execution_interrupted"
    for model, wanted in ((["1", 0], image), (["6", 0], clip)):
        again = {**sampled(model, steps=3), **applied()}
        again["901"] = again.pop(SAMPLER)  # not out of the host's cache
        assert torch.equal(host.latents(again, "901"), wanted)


def test_the_all_in_one_node_takes_models_of_the_hosts_folders(host: Host, nodes: dict[str, Any]) -> None:
    choices = nodes["AnimateDiffAnimate"]["input"]["required"]
    lists = {name: choices[name][1]["options"] for name in ("model", "motion_module")}
    assert CHECKPOINT in lists["model"] and set(MODULES) <= set(lists["motion_module"])
    graph = {
        "1": node(
            "AnimateDiffAnimate", prompt="a fox", negative_prompt="", model=CHECKPOINT,
            motion_module="v3_sd15_mm.ckpt", seed=1, num_frames=4, width=64, height=64, steps=1, guidance_scale=-1.0,
            fps=0.0, motion_lora="none", motion_lora_strength=1.0, options="scheduler: euler",
        )
    }  # fmt: skip
    assert host.images(graph, "1").shape == (4, 64, 64, 3)
    graph["1"]["inputs"]["options"] = "freinit: 3"
    with pytest.raises(HostError, match="did you mean 'freeinit'"):
        host.images(graph, "1")

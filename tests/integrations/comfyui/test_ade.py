"""Workflows of AnimateDiff-Evolved and its companions with our nodes in their place: equal graphs, every loss named."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import random
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.comfy_graphs import CASES, SAMPLER, Graph, applied, gen1, node, sampled, tree
from support.paths import ROOT

from animatediff.camera import parse_poses

FOLDER = ROOT / "integrations" / "comfyui" / "ade"


@pytest.fixture(scope="module")
def ade() -> ModuleType:
    """The package, without the pack around it, which needs ComfyUI."""
    spec = importlib.util.spec_from_file_location(
        "comfy_ade", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfy_ade"] = module
    spec.loader.exec_module(module)
    return module


def page_of(graph: Graph) -> dict[str, Any]:
    """A workflow in the format of the page, as older versions of it save one."""
    nodes, links = {}, []
    for name, entry in graph.items():
        values = [value for value in entry["inputs"].values() if not isinstance(value, list)]
        nodes[name] = {
            "id": int(name), "type": entry["class_type"], "pos": [0, 0], "widgets_values": values, "mode": 0,
            "inputs": [{"name": key, "type": "*", "link": None}
                       for key, value in entry["inputs"].items() if isinstance(value, list)],
            "outputs": [{"name": str(slot), "type": "*", "links": []} for slot in range(3)],
        }  # fmt: skip
    for name, entry in graph.items():
        for socket in nodes[name]["inputs"]:
            source, slot = entry["inputs"][socket["name"]]
            links.append([len(links) + 1, int(source), slot, int(name), 0, "*"])
            socket["link"] = len(links)
            nodes[source]["outputs"][slot]["links"].append(len(links))
    return {
        "nodes": list(nodes.values()),
        "links": links,
        "last_node_id": 99,
        "last_link_id": len(links),
        "version": 0.4,
    }


def graph_of(page: dict[str, Any], shapes: dict[str, Any]) -> Graph:
    """The API format of a page whose nodes are all in `shapes` or were written by `page_of`."""
    source = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    found: Graph = {}
    for raw in page["nodes"]:
        linked = {socket["name"]: source[socket["link"]] for socket in raw["inputs"] if socket["link"] is not None}
        shape, values = shapes.get(raw["type"]), iter(raw["widgets_values"])
        inputs = dict(linked)
        for socket in raw["inputs"]:
            if shape is not None and socket.get("widget"):
                inputs.setdefault(socket["name"], value := next(values))
                del value
        found[str(raw["id"])] = {"class_type": raw["type"], "inputs": inputs}
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_old_workflow_becomes_the_one_with_our_nodes(ade: ModuleType, name: str) -> None:
    case = CASES[name]
    before = json.dumps(case.old)
    found = ade.translate(case.old)
    assert json.dumps(case.old) == before
    assert tree(found.workflow, case.at) == tree(case.ours, case.at)
    assert not [node for node in found.workflow.values() if node["class_type"].startswith(("ADE_", "ACN_", "VHS_"))]
    lines = [str(note) for note in found.notes]
    for words in case.told:
        assert any(words in line for line in lines), (words, lines)
    assert bool(lines) == bool(case.told), lines


@pytest.mark.parametrize("name", CASES)
def test_a_workflow_of_the_page_has_the_same_new_nodes(ade: ModuleType, name: str) -> None:
    case = CASES[name]
    made = ade.translate(case.old).workflow
    page = ade.translate(page_of(case.old))
    shapes = importlib.import_module("comfy_ade.shapes").SHAPES
    found = graph_of(page.workflow, shapes)
    new = {name for name, entry in made.items() if entry["class_type"] in shapes and name not in case.old}
    assert {found[name]["class_type"] for name in new} == {made[name]["class_type"] for name in new}
    for name in new:
        assert found[name]["inputs"] == made[name]["inputs"], name
    numbers = [link[0] for link in page.workflow["links"]]
    assert numbers == sorted(set(numbers))
    ids = {raw["id"] for raw in page.workflow["nodes"]}
    assert all(link[1] in ids and link[3] in ids for link in page.workflow["links"])


def test_values_of_a_page_are_read_by_name_where_it_names_them(ade: ModuleType) -> None:
    page = page_of({**sampled(["6", 0]), "6": gen1()})
    loader = next(raw for raw in page["nodes"] if raw["type"] == "ADE_AnimateDiffLoaderGen1")
    loader["inputs"] += [
        {"name": name, "type": "COMBO", "link": None, "widget": {"name": name}}
        for name in ("beta_schedule", "model_name")
    ]
    loader["widgets_values"] = ["use existing", "v3_sd15_mm.ckpt"]
    made = {raw["type"]: raw for raw in ade.translate(page).workflow["nodes"]}
    assert made["AnimateDiffLoadMotionModule"]["widgets_values"] == ["v3_sd15_mm.ckpt", "auto", False]
    assert made["AnimateDiffApply"]["widgets_values"][1] == "use the model's"


def test_a_schedule_of_a_newer_page_has_no_widgets_for_the_text_around(ade: ModuleType) -> None:
    page = page_of(CASES["schedule"].old)
    old = next(raw for raw in page["nodes"] if raw["type"] == "BatchPromptSchedule")
    old["widgets_values"] = ['"0": "a fox"', 24, False, 0, 0]
    (made,) = [raw for raw in ade.translate(page).workflow["nodes"] if raw["type"] == "AnimateDiffPromptTravel"]
    assert made["widgets_values"][:4] == ['"0": "a fox"', 24, "linear", 0.0]


def test_muted_and_bypassed_settings_do_not_count(ade: ModuleType) -> None:
    graph = {
        **sampled(["6", 0]),
        "6": gen1(motion_lora=["7", 0], effect_multival=["10", 0]),
        "7": node("ADE_AnimateDiffLoRALoader", name="a.ckpt", strength=0.7, prev_motion_lora=["8", 0]),
        "8": node("ADE_AnimateDiffLoRALoader", name="b.ckpt", strength=0.5),
        "10": node("ADE_MultivalDynamic", float_val=0.3),
    }
    page = page_of(graph)
    for raw in page["nodes"]:
        raw["mode"] = {7: 4, 10: 2}.get(raw["id"], 0)
    made = [raw for raw in ade.translate(page).workflow["nodes"] if raw["type"].startswith("AnimateDiff")]
    loras = [raw["widgets_values"] for raw in made if raw["type"] == "AnimateDiffMotionLora"]
    assert loras == [["b.ckpt", 0.5]]
    (apply,) = [raw for raw in made if raw["type"] == "AnimateDiffApply"]
    assert apply["widgets_values"][0] == 1.0


def test_nodes_without_a_counterpart_stay_and_are_named(ade: ModuleType) -> None:
    graph = {
        **sampled(["6", 0]),
        "6": node("ADE_PerturbedAttentionGuidanceMultival", model=["1", 0], scale_multival=["7", 0]),
        "7": node("ADE_MultivalDynamic", float_val=3.0),
    }
    found = ade.translate(graph)
    assert found.workflow == graph and not found.replaced
    assert any("ADE_PerturbedAttentionGuidanceMultival: stays as it is" in str(note) for note in found.notes)


def test_an_expression_and_a_text_beyond_the_clip_are_named(ade: ModuleType) -> None:
    def told(text: str) -> str:
        old = node("BatchPromptSchedule", clip=["1", 1], text=text, max_frames=8, print_output=False)
        return str(ade.translate({**sampled(["1", 0], positive=["7", 0]), "7": old}).notes)

    assert "expressions" in told('"0": "a (fox:`sin(t)`)"')
    assert "single backslashes" in told(r'"0": "a fox \(animal\)"')
    assert "texts at 12 are left out" in told('"0": "a fox", "12": "a hare"')
    assert told('"0": "a fox", "7": "a hare"') == "[]"


def test_spread_images_stand_where_they_stood(ade: ModuleType) -> None:
    def frames(spread: str | None, images: int, length: int) -> str:
        case = CASES["sparsectrl"].old
        graph = {**case, **sampled(["6", 0], positive=["20", 0], negative=["20", 1], frames=length), **applied()}
        method = {} if spread is None else {"sparse_method": ["23", 0]}
        graph["21"] = node("ACN_SparseCtrlLoaderAdvanced", sparsectrl_name="a", **method)
        graph["23"] = node("ACN_SparseCtrlSpreadMethodNode", spread=spread)
        for number in range(images):
            graph[f"{40 + number}"] = node("LoadImage", image=f"{number}.png")
        graph["24"] = node("BatchImagesNode", **{f"images.image{n}": [f"{40 + n}", 0] for n in range(images)})
        return ade.translate(graph).workflow["20"]["inputs"]["frames"]

    assert frames(None, 1, 16) == "0"
    assert frames("ending", 1, 16) == "-1"
    assert frames("uniform", 2, 16) == "0,-1"
    assert frames("uniform", 3, 16) == "0,7,15"
    assert frames("starting", 2, 16) == "0,7"
    assert frames("center", 2, 16) == "5,10"


def camera(**poses: dict[str, Any]) -> Graph:
    """The camera case with other nodes of poses; those of the node `20` count."""
    kept = {name: entry for name, entry in CASES["camera"].old.items() if name not in ("20", "21")}
    return {**kept, **poses}


def test_poses_go_where_their_names_say(ade: ModuleType) -> None:
    def ends(name: str) -> tuple[list[float], list[float]]:
        """Where the camera stands and looks at the end."""
        basic = node("ADE_CameraPoseBasic", motion_type=name, speed=1.0, frame_length=5)
        made = ade.translate(camera(**{"20": basic})).workflow.values()
        (text,) = [entry["inputs"]["camera"] for entry in made if entry["class_type"] == "AnimateDiffCameraCtrl"]
        path = parse_poses(text)
        return path.positions[-1].tolist(), path.directions[-1].tolist()

    assert ends("Zoom In")[0] == pytest.approx([0, 0, 0.75])  # 4 of 16 frames of 1.5 * 2
    assert ends("Pan Left")[0] == pytest.approx([-0.375, 0, 0])
    assert ends("Pan Up")[0] == pytest.approx([0, -0.375, 0])  # y goes down
    assert ends("Tilt Left")[1] == pytest.approx([-math.sin(math.pi / 12), 0, math.cos(math.pi / 12)])
    assert ends("Tilt Up")[1] == pytest.approx([0, -math.sin(math.pi / 12), math.cos(math.pi / 12)])


def test_poses_that_are_not_in_the_workflow_are_named(ade: ModuleType) -> None:
    def told(**poses: dict[str, Any]) -> str:
        found = ade.translate(camera(**poses))
        assert not [entry for entry in found.workflow.values() if entry["class_type"] == "AnimateDiffCameraCtrl"]
        return str([str(note) for note in found.notes])

    file = node("ADE_LoadCameraPoses", pose_filename="poses.txt")
    (made,) = [
        entry["inputs"]
        for entry in ade.translate(camera(**{"20": file})).workflow.values()
        if entry["class_type"] == "AnimateDiffCameraCtrl"
    ]
    assert made["camera"] == "poses.txt"
    joined = told(**{"20": node("ADE_CameraManualPoseAppend", poses_first=["21", 0], poses_last=["21", 0]), "21": file})
    assert "takes poses of ADE_LoadCameraPoses, which are not in the workflow" in joined
    assert "what gives `camera` is not carried over" in joined
    linked = node("ADE_CameraPoseBasic", motion_type="Zoom In", speed=["1", 0], frame_length=4)
    assert "has values that other nodes make" in told(**{"20": linked})


ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, "", "x", [], {}, [[]], ["5", 0], ["999", 0], ["5", -1], ["6", 0], ["9", 7],
    {"a": 1}, [1, 2, 3], "é\n\0", [None], {"id": None},
]  # fmt: skip
"""What stands where it does not belong."""


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Keys and indices that lead to every part of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in pairs for place in ((*at, key), *places(part, (*at, key)))]


def changed(graph: Any, chance: random.Random) -> Any:
    """A workflow with one to four parts gone, doubled, moved, or with an odd value in their place."""
    graph = copy.deepcopy(graph)
    for _ in range(chance.choice((1, 1, 2, 4))):
        known = places(graph)
        (*way, last), (*other_way, other) = chance.choice(known), chance.choice(known)
        parent, source = reduce(getitem, way, graph), reduce(getitem, other_way, graph)
        kind = chance.randrange(5)
        if kind == 0:
            del parent[last]
        elif kind == 1:
            parent[last] = copy.deepcopy(source[other])
        elif kind == 2 and isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        else:
            parent[last] = copy.deepcopy(chance.choice(ODD))
    return graph


def test_odd_workflows_are_translated_or_said_to_be_none(ade: ModuleType) -> None:
    ends = {"translated": 0, "refused": 0}
    for seed in range(600):
        chance = random.Random(seed)
        sound = CASES[chance.choice(list(CASES))].old
        graph = changed(page_of(sound) if seed % 2 else sound, chance)
        try:
            found = ade.translate(graph)
        except ValueError as error:
            ends["refused"] += 1
            text = str(error)
            assert "no workflow" in text or "no nodes" in text or "circle" in text, (seed, text)
            assert len(text) < 400, seed
            continue
        ends["translated"] += 1
        assert not ade.translate(json.loads(json.dumps(found.workflow))).replaced or found.notes, seed
    assert min(ends.values()) > 50, ends


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"nodes": [{"id": 1, "type": "a"}, {"id": 1, "type": "b"}]}, "two nodes have the id 1"),
        ({"nodes": [{"id": 1, "type": ["a"]}]}, r"type of node 1 is \['a'\], expected a text"),
        (
            {"nodes": [{"id": 1, "type": "a", "inputs": [{}]}]},
            r"name of inputs\[0\] of node 1 is None, expected a text",
        ),
        ({"nodes": [{"id": 1, "type": "a"}], "links": [[1, 2]]}, r"output of links\[0\] is None, expected a number"),
        ({"1": node("Reroute", a=["2", 0]), "2": node("Reroute", a=["1", 0])}, "in a circle: 1 <- 2 <- 1"),
        ({"1": {"class_type": "Reroute", "inputs": 3}}, "inputs of node 1 is 3, expected an object"),
    ],
)
def test_what_is_no_workflow_is_one_message_that_names_the_place(ade: ModuleType, graph: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ade.translate(graph)


def test_a_value_that_is_none_is_told_and_the_default_counts(ade: ModuleType) -> None:
    graph = {**sampled(["6", 0]), "6": gen1(motion_scale={"a": [1]})}
    graph["6"]["inputs"]["beta_schedule"] = [1, 2, 3]
    found = ade.translate(graph)
    assert "beta_schedule [1, 2, 3] is left out: it is no value of that input" in str(found.notes)
    (apply,) = [entry for entry in found.workflow.values() if entry["class_type"] == "AnimateDiffApply"]
    assert apply["inputs"]["sampling_settings"] == "auto"


def test_the_command_line_writes_a_file_and_says_what_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(CASES["gen2_advanced"].old))
    done = subprocess.run([sys.executable, str(FOLDER), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "FreeInit" in done.stdout, done.stderr
    made = json.loads((tmp_path / "old-animatediff.json").read_text())
    assert tree(made, SAMPLER) == tree(CASES["gen2_advanced"].ours, SAMPLER)
    for content in ("[1, 2]", "{", "{}", '{"a": 1}'):
        file.write_text(content)
        done = subprocess.run([sys.executable, str(FOLDER), str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "cannot be translated" in done.stderr
    for content in ('{"nodes": ["x"]}', '{"nodes": [{}]}', '{"nodes": [{"id": 1, "type": "a"}], "links": [[1]]}'):
        file.write_text(content)
        done = subprocess.run([sys.executable, str(FOLDER), str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "is no workflow" in done.stderr

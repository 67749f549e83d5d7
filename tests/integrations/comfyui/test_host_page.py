"""The host's own page in a headless browser: example workflows load without red nodes, and run from its button."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import comfy_host

if comfy_host.is_real():
    pytest.skip("this process is inside of the host", allow_module_level=True)

from support.comfy_server import PACK, Host

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 180_000
READY = "() => !!(window.app?.graph && window.app.canvas && LiteGraph.registered_node_types.AnimateDiffApply)"
SMALL = """() => {
  for (const node of app.graph._nodes)
    for (const widget of node.widgets || [])
      if (widget.name in {width: 1, height: 1}) widget.value = 64;
      else if (widget.name === 'steps') widget.value = 1;
      else if (widget.name === 'batch_size' && widget.value > 32) widget.value = 18;
}"""


@pytest.fixture(scope="module")
def page(host: Host) -> Iterator[Any]:
    """The host's page, with its graph and its nodes ready."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
        opened.set_default_timeout(PATIENCE)
        opened.goto(host.url)
        opened.wait_for_function(READY)
        yield opened
        browser.close()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_loads_and_runs_from_the_button(host: Host, page: Any, file: Path) -> None:
    workflow = json.loads(file.read_text())
    before = set(host.get("/history"))
    page.evaluate("async ([flow, name]) => { await app.loadGraphData(flow, true, true, name) }", [workflow, file.stem])
    loaded = page.evaluate("app.graph._nodes.map(node => [node.type, !!node.has_errors])")
    assert sorted(kind for kind, _ in loaded) == sorted(node["type"] for node in workflow["nodes"])
    assert not [kind for kind, red in loaded if red]
    page.evaluate(SMALL)
    graph = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert len(graph) == len([kind for kind, _ in loaded if kind != "MarkdownNote"])
    page.get_by_role("button", name="Run").first.click()
    (prompt,) = host.wait_for(lambda: set(host.get("/history")) - before)
    outputs = host.finished(prompt)
    assert any(entry.get("images") for entry in outputs.values())
    assert not page.evaluate("app.graph._nodes.filter(node => node.has_errors).map(node => node.type)")
    assert not page.evaluate("app.lastNodeErrors")

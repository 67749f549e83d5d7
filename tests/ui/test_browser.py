"""The page in a browser: render, watch, cancel, put settings back, errors beside fields, wide and narrow windows."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff.media import write_video

PROMPT = "a fox moving right on a green background"
PATIENCE = 150_000
"""Milliseconds: tests run beside others on a loaded machine."""
pytestmark = pytest.mark.slow


@pytest.fixture
def tab(server: Any, browser: Any) -> Iterator[Any]:
    yield from opened(server, browser)


def opened(server: Any, browser: Any, width: int = 1400, height: int = 900) -> Iterator[Any]:
    """A page of its own, that fails the test for errors of its scripts and for requests to other machines."""
    url = server.blocks.local_url
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else problems.append(asked.url)
    )
    page.goto(url)
    page.wait_for_selector("#generate")
    yield page
    context.close()
    assert not problems


def field(tab: Any, name: str) -> Any:
    """The text field of an option."""
    return tab.locator(f"#option-{name}").locator("textarea, input:not([type=range])").first


def fill(tab: Any, name: str, text: str) -> None:
    field(tab, name).fill(text)
    field(tab, name).blur()


def small(tab: Any, steps: str = "1") -> None:
    """A clip that takes no time."""
    fill(tab, "prompt", PROMPT)
    fill(tab, "num_frames", "4")
    fill(tab, "steps", steps)


def unfold(tab: Any, part: str) -> None:
    """Open a part of the form; early, as Gradio mounts its components then, and loses what is typed before they are."""
    tab.get_by_role("button", name=part).click()


def write_row(tab: Any, *texts: str) -> None:
    """Write the first row of the prompts that travel; again where Gradio mounted the table anew meanwhile."""
    from playwright.sync_api import TimeoutError

    cells = tab.locator(".ad-travel [role=gridcell]")
    for timeout in (5_000, 15_000, PATIENCE):
        try:
            for column, text in enumerate(texts):
                cells.nth(column).dblclick(timeout=timeout)
                editor = cells.nth(column).locator("textarea")
                editor.fill(text, timeout=timeout)
                editor.press("Enter", timeout=timeout)
            for column, text in enumerate(texts):
                cells.nth(column).locator("[data-expanded=false]", has_text=text).wait_for(timeout=timeout)
            return
        except TimeoutError:
            if timeout == PATIENCE:
                raise


def value(tab: Any, name: str) -> str:
    return field(tab, name).input_value()


def files(output: Path) -> list[str]:
    return sorted(path.name for path in output.rglob("*") if path.is_file())


def test_a_clip_is_rendered_plays_and_is_put_back(tab: Any, output: Path) -> None:
    """With the command line's record beside it; its seed can be used again; its settings fill the form."""
    small(tab)
    fill(tab, "guidance_scale", "3.5")
    tab.click("#generate")
    video = tab.wait_for_selector("video.ad-result")
    playing = "(video => video.readyState >= 2 && !video.paused)(document.querySelector('video.ad-result'))"
    tab.wait_for_function(playing)
    assert video.evaluate("video => [video.loop, video.videoWidth]") == [True, 64]
    (name,) = [name for name in files(output) if name.endswith(".mp4")]
    record = json.loads((output / f"{name}.json").read_text("utf-8"))["request"]
    assert (record["prompt"], record["steps"], record["num_frames"]) == ([PROMPT], 1, 4)
    seed = str(record["seed"][0])
    assert seed in tab.inner_text("#facts") and value(tab, "seed") == "-1"
    assert "64 x 64, 4 frames" in tab.inner_text("#facts")
    tab.click("#use-seed")
    tab.wait_for_function(f"[...document.querySelectorAll('textarea, input')].some(e => e.value == '{seed}')")
    tab.click("#dice")
    tab.wait_for_function("[...document.querySelectorAll('textarea, input')].some(e => e.value == '-1')")
    with tab.expect_download() as download:
        tab.click("#download")
    assert Path(download.value.path()).read_bytes() == (output / name).read_bytes()

    fill(tab, "prompt", "something else")
    fill(tab, "guidance_scale", "")
    tab.get_by_role("tab", name="Gallery").click()
    tab.click("#gallery button.thumbnail-item, #gallery .thumbnail-lg")
    tab.wait_for_selector("#chosen video")
    tab.wait_for_selector(f".ad-settings td:text-is('{seed}')")
    tab.click("#put-back")
    tab.wait_for_selector("#generate")
    assert [value(tab, label) for label in ("prompt", "guidance_scale", "seed", "num_frames")] == [
        PROMPT,
        "3.5",
        seed,
        "4",
    ]


def test_the_path_of_the_camera_is_drawn(tab: Any) -> None:
    """While it is typed; a mistake is said in its place."""
    unfold(tab, "Camera and motion")
    fill(tab, "camera", "zoom-in:0.5, pan-left:0.2")
    image = tab.wait_for_selector("#camera-path img")
    assert image.get_attribute("alt").startswith("Path of the camera: ")
    tab.wait_for_function("document.querySelector('#camera-path img').naturalWidth > 200")
    before = image.get_attribute("src")
    fill(tab, "camera", "tilt-up")
    tab.wait_for_function("before => document.querySelector('#camera-path img').src !== before", arg=before)
    fill(tab, "camera", "zoom-inn")
    tab.wait_for_selector("#camera-path >> text=zoom-in")
    assert tab.query_selector("#camera-path img") is None


def test_the_path_of_a_video_is_drawn_with_what_is_doubtful(tab: Any, tmp_path: Path) -> None:
    video = tmp_path / "fog.mp4"
    write_video(np.full((4, 64, 64, 3), 90, np.uint8), video, fps=8)
    unfold(tab, "Camera and motion")
    with tab.expect_file_chooser() as chooser:
        tab.click("#option-camera-file button")
    chooser.value.set_files(video)
    image = tab.wait_for_selector("#camera-path img")
    assert image.get_attribute("alt").startswith("Path of the camera: 4 poses")
    assert "show nothing to see a movement by" in tab.inner_text("#camera-path")


def test_cancel_ends_it_and_leaves_nothing(tab: Any, output: Path) -> None:
    """While it denoises, with a preview and the time left in sight; the page goes on."""
    before = files(output)
    small(tab, steps="1000")
    tab.click("#generate")
    tab.wait_for_selector("img.ad-preview")
    assert "Sampling" in tab.inner_text(".ad-words")
    assert int(tab.get_attribute("[role=progressbar]", "aria-valuenow") or -1) >= 0
    tab.wait_for_function("document.querySelector('.ad-words').innerText.includes('left')")
    tab.click("#cancel")
    tab.wait_for_selector("#line >> text=Cancelled")
    tab.wait_for_selector("#generate")
    assert files(output) == before


def test_a_second_tab_waits_for_its_turn(server: Any, browser: Any, tab: Any, output: Path) -> None:
    """It is told its place, may leave the queue, and renders when the first is done."""
    small(tab, steps="1000")
    tab.click("#generate")
    tab.wait_for_selector("img.ad-preview")
    for second in opened(server, browser):
        small(second)
        second.click("#generate")
        second.wait_for_selector("#stage >> text=1 render is before yours")
        second.click("#cancel")
        second.wait_for_selector("#line >> text=Cancelled")
        second.click("#generate")
        second.wait_for_selector("#stage >> text=1 render is before yours")
        tab.click("#cancel")
        second.wait_for_selector("video.ad-result")
    tab.wait_for_selector("#line >> text=Cancelled")


def test_errors_stand_beside_their_fields(tab: Any) -> None:
    """Also in a folded part, which opens; they go with the next try, and the page stays usable."""
    unfold(tab, "Second pass and upscaler")
    tab.click("#generate")
    tab.wait_for_selector("#line >> text=say what to show")
    small(tab)
    fill(tab, "steps", "many")
    tab.click("#generate")
    beside = tab.locator(".ad-three .column", has=tab.locator("#option-steps"))
    beside.locator(".ad-error", has_text="expected a number").wait_for()
    fill(tab, "steps", "1")
    fill(tab, "upscale", "90")
    unfold(tab, "Second pass and upscaler")  # which folds it
    tab.locator("#option-upscale").wait_for(state="hidden")
    tab.click("#generate")
    tab.wait_for_selector(".ad-fold .ad-error:has-text('more than 1 and at most 8')")
    fill(tab, "upscale", "")
    tab.click("#generate")
    tab.wait_for_selector("video.ad-result")
    assert tab.locator(".ad-error:visible").count() == 0


def test_dropped_files(tab: Any, tmp_path: Path, output: Path) -> None:
    """An image is the first frame and is kept beside the results; a damaged one is an error beside its field."""
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"no image at all")
    Image.fromarray(np.full((64, 64, 3), (200, 80, 30), np.uint8)).save(good)
    unfold(tab, "Animate an image")
    small(tab)
    part = tab.locator("#option-image input[type=file]").first
    part.set_input_files(str(bad))
    tab.wait_for_selector("#option-image img")
    tab.click("#generate")
    tab.wait_for_selector(".ad-fold .ad-error")
    assert "bad.png" in tab.inner_text("#line")
    tab.locator("#option-image").get_by_label("Clear").or_(
        tab.locator("#option-image").get_by_label("Remove Image")
    ).first.click()
    part = tab.locator("#option-image input[type=file]").first
    part.set_input_files(str(good))
    tab.wait_for_selector("#option-image img")
    tab.click("#generate")
    tab.wait_for_selector("video.ad-result")
    assert any(name.endswith("-good.png") for name in files(output / "inputs"))
    record = max(output.glob("*.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(record.read_text("utf-8"))["request"]["image"].endswith("-good.png")


def test_prompt_travel_shows_its_timeline(tab: Any) -> None:
    unfold(tab, "Prompt travel")
    small(tab)
    write_row(tab, "2", "a cat moving right")
    tab.wait_for_selector("#timeline img")


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(width: int, server: Any, browser: Any, output: Path) -> None:
    """In every tab, with every part unfolded."""
    write_video(np.zeros((2, 64, 64, 3), np.uint8), output / "clip-of-others.gif")
    for tab in opened(server, browser, width, 844):
        tab.evaluate("document.querySelectorAll('.ad-fold > button').forEach(button => button.click())")
        tab.locator("#option-quality").wait_for()  # in the last part
        for name in ("Create", "Gallery", "Models"):
            tab.get_by_role("tab", name=name, exact=True).click()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        tab.get_by_role("tab", name="Create", exact=True).click()
        one, other = (tab.locator(f"#option-{name}").bounding_box() for name in ("window", "overlap"))
        assert (other["y"] > one["y"] + 20) is (width == 390), "help has room: one field a row on a phone, else two"
        steps, scheduler = (tab.locator(f"#option-{name}").bounding_box() for name in ("steps", "scheduler"))
        assert abs(steps["height"] - scheduler["height"]) < 2, "numbers and lists in a row are of one height"


def test_only_results_are_served(server: Any, output: Path, tmp_path: Path) -> None:
    """Of the files of this machine; and the page tells nobody that it runs."""
    import os

    url = server.blocks.local_url
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and not server.blocks.analytics_enabled
    (tmp_path / "secret.txt").write_text("secret")
    Path("here.txt").write_text("secret")
    (output / "seen.gif").write_bytes(b"GIF89a")
    with urllib.request.urlopen(f"{url}gradio_api/file={output / 'seen.gif'}") as answer:
        assert answer.read() == b"GIF89a"
    module = Path(__file__).resolve().parents[2] / "animatediff" / "bundled" / "motion_module.safetensors"
    for path in (tmp_path / "secret.txt", Path("here.txt").resolve(), output / ".." / "x", module, "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}gradio_api/file={path}")
        assert refused.value.code in (403, 404)

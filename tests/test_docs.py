"""The documentation: tables made from the code are whole, links lead somewhere, commands name options that there are,
and the built site loads nothing from another host."""

from __future__ import annotations

import functools
import http.server
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from support.paths import ROOT

from animatediff.cli.main import MADE, app
from animatediff.render.options import OPTIONS
from integrations.cog.animatediff_cog.schema import inputs_of
from scripts import docs_site

DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
CHROMIUM = shutil.which("chromium")


class Rows(HTMLParser):
    """Rows of the tables of a page: id -> text of each cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr" and given.get("id"):
            self.cells: list[str] | None = self.rows.setdefault(str(given["id"]), [])
        elif tag == "tr":
            self.cells = None
        elif tag == "td" and self.cells is not None:
            self.cells.append("")
        elif tag == "br" and self.cells:
            self.cells[-1] += " | "

    def handle_data(self, data: str) -> None:
        if getattr(self, "cells", None):
            self.cells[-1] += data  # pyright: ignore


@functools.cache
def commands() -> dict[str, Any]:
    """Name -> the command, with all its options."""
    group: Any = typer.main.get_command(app)
    return {**group.commands, **{name: command() for name, command in MADE.items()}}


def flags(command: Any) -> set[str]:
    return {"--help", "-h"} | {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}


# -- tables made from the code -----------------------------------------------------------------------------------------


def test_the_table_of_options_has_every_option_with_its_names() -> None:
    rows = {name: cells for name, cells in Rows(docs_site.options_page()).rows.items() if len(cells) == 4}
    assert list(rows) == [option.name for option in OPTIONS]
    for option in OPTIONS:
        names, value, default, what = rows[option.name]
        assert names.split(" | ")[0].split()[0] == option.flag and names.split(" | ")[1] == option.name
        assert value and default and what, f"{option.name}: type, default and help are all there"


def test_the_table_of_options_says_type_range_default_and_need() -> None:
    rows = Rows(docs_site.options_page()).rows
    assert rows["num_frames"][:3] == ["--num-frames | num_frames", "whole number | at least 1", "the model's"]
    assert rows["steps"][:3] == [
        "--steps | steps | pipe: num_inference_steps",
        "whole number | 1 to 1000",
        "the model's",
    ]
    assert rows["negative_prompt"][0] == "--negative-prompt -n | negative_prompt"
    assert rows["blend"][1:3] == ["word | pyramid, flat, overlap-linear, gauss", "pyramid"]
    assert rows["closed_loop"][1:3] == ["switch", "off"]
    assert rows["strength"][1:3] == ["number | more than 0 and at most 1", "0.6"]
    assert rows["out"][2] == "a new name in samples/" and rows["dtype"][1] == "word | auto, float32, float16, bfloat16"
    assert rows["prompt"][2] == "must be given" and rows["vae"][1:3] == ["file", "none"]
    assert "Without effect where all frames are in one window" in rows["overlap"][3]
    assert "--window" in rows["overlap"][3], "settings by the names of the command line"
    assert rows["euler_a"][1] == "EulerAncestralDiscreteScheduler"


def test_the_page_of_commands_has_every_command_and_flag() -> None:
    page = docs_site.commands_page()
    of_request = {option.name for option in OPTIONS}
    for name, command in commands().items():
        assert f"\n## animatediff {name}\n" in page
        for each in command.params:
            if each.opts[0].startswith("-") and not (name in MADE and each.name in of_request):
                assert each.opts[0] in page, f"{name} {each.opts[0]}"
    rows = Rows(page).rows
    assert rows["convert-to"][:2] == ["--to", "original"]
    assert rows["inspect-files"][:2] == ["FILE", "must be given"]


def test_the_table_of_inputs_has_every_input_of_the_cog_model() -> None:
    rows = Rows(docs_site.inputs_page()).rows
    assert list(rows) == [item.name for item in inputs_of()]
    assert rows["steps"][:3] == ["steps", "whole number | from 1 to 100", ""]
    assert rows["frames"][0] == "frames | Former." and rows["prompt"][2] == "must be given"
    assert rows["blend"][1:3] == ["word | pyramid, flat, overlap-linear, gauss", "pyramid"]
    assert rows["keyframes"][1] == "files" and rows["closed_loop"][1:3] == ["switch", "off"]


# -- links and commands ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_pages_and_headings(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        page = (document.parent / name).resolve() if name else document
        if page.parent == ROOT / "docs" and page.name in docs_site.PAGES:
            assert document.name != "README.md" or page.name not in docs_site.PAGES, "made only for the site"
            continue
        assert page.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(page), f"{target}: no such heading"


def test_readme_opens_with_clips_that_move_and_are_small() -> None:
    opening = (ROOT / "README.md").read_text("utf-8").split("\n\n", 2)[1]
    clips = [ROOT / name for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", opening)]
    assert {clip.relative_to(ROOT).as_posix() for clip in clips} == {f"docs/clips/{name}.webp" for name in clip_names()}
    for clip in clips:
        with Image.open(clip) as image:
            assert getattr(image, "n_frames", 1) >= 16, clip
    assert sum(clip.stat().st_size for clip in clips) < 400_000


def clip_names() -> list[str]:
    """Names of the clips that `docs/clips.py` renders."""
    return re.findall(r'^    "(\w+)":', (ROOT / "docs/clips.py").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_name_commands_and_options_that_there_are(document: Path) -> None:
    text = document.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ +(?:\$ )?animatediff (.*)$", text, re.MULTILINE):
        name, *words = shlex.split(line, comments=True)
        if name.startswith("-") or name == "COMMAND":
            continue
        assert name in commands(), line
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in flags(commands()[name]), f"animatediff {line}: {word}"


# -- the built site ----------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_site() -> None:
    """And in its navigation once; pages that are made when it is built too."""
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", nav, re.MULTILINE)
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted({*written, *docs_site.PAGES})


AWAY = (
    '<script src="https://cdn.example/a.js"></script>',
    '<link rel="stylesheet" href="//fonts.example/css">',
    '<link rel="preconnect" href="https://fonts.example">',
    '<img srcset="a.png 1x, https://cdn.example/b.png 2x">',
    '<p style="background: url(http://cdn.example/c.png)">',
    "<style>@import 'https://cdn.example/d.css';</style>",
)
OWN = (
    '<a href="https://arxiv.org/abs/2311.16933">paper</a><img src="clips/fox.webp">',
    '<link rel="stylesheet" href="assets/site.css"><script src="assets/a.js"></script>',
    "<p>https://cdn.example/a.js</p>",
)


@pytest.mark.parametrize("text", AWAY)
def test_what_another_host_would_be_asked_for_stops_the_build(text: str, tmp_path: Path) -> None:
    mkdocs = pytest.importorskip("mkdocs.exceptions")
    (tmp_path / "a.html").write_text(f"<html><head></head><body>{text}</body></html>")
    config = type("Config", (), {"site_dir": str(tmp_path)})
    with pytest.raises(mkdocs.PluginError, match=r"a\.html: .*example"):
        docs_site.on_post_build(config)


@pytest.mark.parametrize("text", OWN)
def test_links_and_files_of_the_site_are_fine(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<html>{text}</html>")
    (tmp_path / "a.css").write_text("p {background: url(data:image/svg+xml;base64,AA)}")
    assert list(docs_site.loaded_from_elsewhere(tmp_path)) == []
    (tmp_path / "a.css").write_text("@font-face {src: url(https://fonts.example/a.woff2)}")
    assert list(docs_site.loaded_from_elsewhere(tmp_path)) == ["a.css: https://fonts.example/a.woff2"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the built site, served on this machine."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, check=True, timeout=300,
    )  # fmt: skip

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_pages_fit_a_phone_and_ask_no_other_host(site: str) -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "first_clip", "for/a1111", "options", "commands", "api/pipelines", "models"):
            page.goto(f"{site}/{name}.html", timeout=120_000)
            assert page.evaluate("document.documentElement.scrollWidth") == 390, f"{name} scrolls to the side"
            images = (
                "[...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src)"
            )
            page.wait_for_function(f"{images}.length === 0", timeout=120_000)
        page.goto(f"{site}/options.html#num_frames", timeout=120_000)
        assert page.locator("tr#num_frames").is_visible()
        browser.close()
    assert asked and [url for url in asked if not url.startswith((site, "data:"))] == []

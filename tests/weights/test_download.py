"""Known files are fetched from the hub only when asked; the hub here is one on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
from support.paths import GOLDEN
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import Cancelled, UserError
from animatediff.weights.hub import KNOWN_FILES, fetch, fetch_folder, is_hub_id

CONTENT = b"weights" * 1000
COMMIT = "0" * 40


class FakeHub(BaseHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012 - shared on purpose

    def _answer(self, body: bool) -> None:
        FakeHub.requests.append(f"{self.command} {self.path}")
        if self.path != "/guoyww/animatediff/resolve/main/mm_sd_v15_v2.ckpt":
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if body:
            self.wfile.write(CONTENT)

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    FakeHub.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield FakeHub.requests
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_file_of_the_original_is_known() -> None:
    assert len([name for name in KNOWN_FILES if name.startswith("v2_lora_")]) == 8
    modules = {"mm_sd_v14", "mm_sd_v15", "mm_sd_v15_v2", "v3_sd15_mm", "mm_sdxl_v10_beta", "v3_sd15_adapter"}
    controls = {"v3_sd15_sparsectrl_rgb", "v3_sd15_sparsectrl_scribble"}
    assert {f"{name}.ckpt" for name in modules | controls} <= KNOWN_FILES.keys()


def test_nothing_is_fetched_unasked(fake_hub: list[str]) -> None:
    with pytest.raises(UserError, match=r"models.Motion_Module.mm_sd_v15_v2\.ckpt.*add `download`"):
        fetch("mm_sd_v15_v2.ckpt", download=False)
    assert fake_hub == []


def test_fetched_when_asked_and_found_again_without(fake_hub: list[str]) -> None:
    path = fetch("mm_sd_v15_v2.ckpt", download=True)
    assert path.read_bytes() == CONTENT
    asked = len(fake_hub)
    assert asked
    assert fetch("models/Motion_Module/mm_sd_v15_v2.ckpt", download=False) == path
    assert len(fake_hub) == asked, "the second time nothing is asked for"


def test_progress_is_told_and_may_end_the_transfer(fake_hub: list[str]) -> None:
    told: list[tuple[int, int]] = []

    def end(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        fetch("mm_sd_v15_v2.ckpt", download=True, on_bytes=end)
    path = fetch("mm_sd_v15_v2.ckpt", download=True, on_bytes=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT and told[-1] == (len(CONTENT), len(CONTENT))


def test_local_file_comes_first(fake_hub: list[str]) -> None:
    folder = Path("models/MotionLoRA")
    folder.mkdir(parents=True)
    (folder / "v2_lora_ZoomIn.ckpt").write_bytes(b"x")
    assert fetch("v2_lora_ZoomIn.ckpt", download=True).read_bytes() == b"x"
    assert fake_hub == []


def test_hub_without_the_file(fake_hub: list[str]) -> None:
    with pytest.raises(UserError, match=r"could not be fetched from guoyww/animatediff"):
        fetch("mm_sd_v14.ckpt", download=True)
    assert not Path("models").exists()


def test_hub_that_is_not_there(fake_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its five attempts
    with pytest.raises(UserError, match=r"could not be fetched"):
        fetch("mm_sd_v15.ckpt", download=True)


def test_from_the_command_line(fake_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration's known file is fetched with --download, and is then told to be no weights here."""
    Path("models/Motion_Module").mkdir(parents=True)
    Path("run.yaml").write_text(
        f"- {{prompt: a, model: {GOLDEN / 'v1' / 'sd'}, motion_module: models/Motion_Module/mm_sd_v15_v2.ckpt}}"
    )
    done = CliRunner().invoke(app, ["animate", "--config", "run.yaml"])
    assert done.exit_code == 2 and "add --download" in done.stderr and fake_hub == []
    done = CliRunner().invoke(app, ["animate", "--config", "run.yaml", "--download"])
    assert done.exit_code == 2 and "mm_sd_v15_v2.ckpt: text that begins with " in done.stderr
    assert any("/guoyww/animatediff/resolve/main/mm_sd_v15_v2.ckpt" in request for request in fake_hub)


def test_unknown_name_names_the_nearest(fake_hub: list[str]) -> None:
    with pytest.raises(UserError, match=r"did you mean 'v2_lora_ZoomIn\.ckpt'"):
        fetch("v2_lora_zoomin.ckpt", download=True)
    with pytest.raises(UserError, match="no published file has this name"):
        fetch("xyz.ckpt", download=True)
    assert fake_hub == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("guoyww/animatediff-motion-adapter-v1-5-2", True),
        ("runwayml/stable-diffusion-v1-5", True),
        ("owner/name.v1", True),
        ("models/mm.ckpt", False),
        ("models/mm.SAFETENSORS", False),
        ("models/sparse.pth", False),
        ("a/b/c", False),
        ("name", False),
        ("../name", False),
    ],
)
def test_what_can_be_a_hub_id(name: str, known: bool) -> None:
    assert is_hub_id(name) == known


def test_a_repository_that_is_neither_reached_nor_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.utils.get_session", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    message = r"owner/name: no such file or folder here, the hub cannot be reached \(no route to host\)"
    with pytest.raises(UserError, match=message):
        fetch_folder("owner/name", lambda files: files)


def test_without_a_network_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub's library was asked, which tries for half a minute")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", asked)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", asked)
        with pytest.raises(UserError, match=r"the hub cannot be reached \(.*refused\), and it is not in"):
            fetch_folder("owner/name", lambda files: files)
        with pytest.raises(UserError, match=r"could not be fetched from guoyww/.* at .*refused\. Put the file"):
            fetch("v3_sd15_mm.ckpt", download=True)


def test_a_repository_fetched_before_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, local_files_only: str(tmp_path / name))
    assert fetch_folder("owner/name", lambda files: files) == tmp_path / "owner/name"

"""`animatediff serve` as a command: what it refuses to begin, and that it begins."""

from __future__ import annotations

import ast
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.paths import ROOT
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.server.settings import Settings, check_access

TOKEN = "0123456789abcdef"


def refused(*arguments: str, data: Path | None = None) -> str:
    """The one message of a command that does not begin."""
    result = CliRunner().invoke(app, ["serve", "--data", str(data or ROOT / "samples" / "none"), *arguments])
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "server.example"])
def test_beyond_this_machine_with_a_token_alone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANIMATEDIFF_TOKEN", raising=False)
    assert "--token-file" in refused("--host", host) and "--no-auth" in refused("--host", host)
    for allowed in (Settings(data=Path("d"), host=host, tokens=(TOKEN,)), Settings(data=Path("d"), host="127.0.0.1")):
        check_access(allowed, no_auth=False)
    check_access(Settings(data=Path("d"), host=host), no_auth=True)
    with pytest.raises(UserError):
        check_access(Settings(data=Path("d"), host=host), no_auth=False)
    assert TOKEN not in repr(Settings(data=Path("d"), tokens=(TOKEN,)))


def test_what_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text("secret\n")
    (tmp_path / "file").write_text("")
    assert "holds no token" in refused("--token-file", str(tmp_path / "empty"))
    assert "at least 16" in refused("--token-file", str(tmp_path / "short"))
    assert "no such file" in refused("--token-file", str(tmp_path / "none"))
    assert "no such folder" in refused("--models", str(tmp_path / "none"))
    assert "there are bundled" in refused("--model", "none.safetensors", "--port", "0", data=tmp_path / "data")
    assert "is no device" in refused("--device", "gpu", "--port", "0", data=tmp_path / "data")
    assert "choose another place with --data" in refused("--port", "0", data=tmp_path / "file" / "data")
    assert f"{tmp_path / 'file'}: is a file, expected a folder" in refused("--port", "0", data=tmp_path / "file")
    assert "is a file, expected a folder" in refused("--models", str(tmp_path / "file"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another --port" in refused("--port", str(taken.getsockname()[1]), data=tmp_path / "data")
    monkeypatch.setenv("ANIMATEDIFF_TOKEN", "short")
    assert "at least 16" in refused("--port", "0")
    monkeypatch.delenv("ANIMATEDIFF_TOKEN")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'animatediff[serve]'" in refused()


def test_it_begins_and_ends(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n{TOKEN}2\n")
    command = [sys.executable, "-m", "animatediff", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    command += ["--host", "0.0.0.0", "--token-file", str(tmp_path / "token"), "--max-frames", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = line.partition("0.0.0.0:")[2].partition("/")[0]
        if (maps := Path(f"/proc/{process.pid}/maps")).exists():
            assert "libtorch" not in maps.read_text(), "the workers need PyTorch, the service does not"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            assert client.get("/v1/videos").status_code == 401
            client.headers["authorization"] = f"Bearer {TOKEN}2"
            assert client.get("/v1/videos").json()["data"] == []
            reply = client.post("/v1/videos", json={"prompt": "a fox", "num_frames": 4})
            assert reply.status_code == 400 and "the limit is 3 frames" in reply.json()["error"]["message"]
        other = refused("--port", "0", data=tmp_path / "data")
        assert "another server works there" in other
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_every_error_is_in_the_docs() -> None:
    """Status and code of each reply that the service makes stand in one row of the table."""
    rows = [line.split("|") for line in (ROOT / "docs" / "http.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    told = {(status.strip(), code) for _, statuses, codes, *_ in rows for status in statuses.split(",")
            for code in re.findall(r"`(\w+)`", codes)}  # fmt: skip
    missing = [made for made in sorted(_replies()) if made not in told]
    assert missing == [] and ("405", "method_not_allowed") in told and len(_replies()) > 15


def _replies() -> set[tuple[str, str]]:
    found = set()
    for path in (ROOT / "animatediff" / "server").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in ("ApiError", "refused"):
                continue
            words = {item.arg: item.value for item in call.keywords}
            status, code = (call.args[0], words.get("code")) if call.func.id == "ApiError" else (None, None)  # type: ignore[union-attr]
            if status is None:
                code = words.get("code") or (call.args[2] if len(call.args) > 2 else ast.Constant("invalid_value"))
            if (status is None or isinstance(status, ast.Constant)) and isinstance(code, ast.Constant):
                found.add((str(400 if status is None else status.value), str(code.value)))
    return found - {("499", "deleted")}  # the client has gone, and does not read it

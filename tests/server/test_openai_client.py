"""The `openai` client works against the service as against OpenAI's."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import av
import numpy as np
import openai
import pytest
from PIL import Image
from support.http_server import Server, eventually
from support.paths import ROOT

from animatediff.media.open import open_media
from animatediff.server.schema import EXTRA


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def frames_of(path: Path) -> np.ndarray:
    with open_media(path) as reader:
        return reader.read(range(reader.num_frames))


@pytest.mark.filterwarnings("ignore")
def test_create_poll_download_list_delete(server: Server, tmp_path: Path) -> None:
    api = client(server)
    made = api.videos.create_and_poll(
        prompt="a fox moving right",
        seconds="1",  # pyright: ignore[reportArgumentType]
        size="64x72",  # pyright: ignore[reportArgumentType]
        poll_interval_ms=50,
        extra_body={"seed": 5, "extra_params": {"quality": 70, "loras": [], "control_indices": []}},
    )
    assert (made.status, made.progress, made.error, made.object) == ("completed", 100, None, "video")
    assert (made.seconds, made.size, made.model, made.prompt) == ("1", "64x72", "bundled", "a fox moving right")
    assert made.completed_at is not None and made.expires_at is not None and made.expires_at > made.completed_at

    api.videos.download_content(made.id).write_to_file(tmp_path / "fox.mp4")
    assert frames_of(tmp_path / "fox.mp4").shape == (8, 72, 64, 3)
    with av.open(str(tmp_path / "fox.mp4")) as file:
        assert "a fox moving right" in json.dumps(file.metadata)  # our settings, inside like in any result
    for variant, kind, size in (("thumbnail", "WEBP", (64, 72)), ("spritesheet", "JPEG", (530, 76))):
        content = api.videos.download_content(made.id, variant=variant).read()  # pyright: ignore[reportArgumentType]
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == (kind, size)

    others = [api.videos.create(prompt=f"a cat {number}").id for number in range(3)]
    listed = [video.id for video in api.videos.list(limit=2, order="desc")]  # two pages and more
    assert listed[:4] == [*reversed(others), made.id]
    page = api.videos.list(limit=2, after=others[1])
    assert page.data[0].id == others[0]
    assert api.videos.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError) as error:
        api.videos.retrieve(made.id)
    assert error.value.body["code"] == "not_found"  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
    for other in others:
        api.videos.delete(other)


@pytest.mark.filterwarnings("ignore")
def test_mistakes_are_errors_of_the_client(server: Server) -> None:
    api = client(server)
    with pytest.raises(openai.BadRequestError) as error:
        api.videos.create(prompt="a fox", extra_body={"extra_params": {"control_end": 2}})
    body = error.value.body
    assert isinstance(body, dict) and body["param"] == "extra_params.control_end"
    assert body["type"] == "invalid_request_error" and "expected 0 to 1" in body["message"]
    failed = api.videos.create_and_poll(prompt="bug", poll_interval_ms=50)
    assert failed.status == "failed" and failed.error is not None and failed.error.code == "internal_error"
    assert "RuntimeError" in failed.error.message and "a mistake of ours" not in failed.error.message
    assert api.models.list().data[0].id == "bundled"
    assert api.models.retrieve("bundled/neon").id == "bundled/neon"


@pytest.mark.filterwarnings("ignore")
def test_an_image_to_animate(server: Server) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, format="PNG")
    image = ("../../etc/passwd.png", file.getvalue(), "image/png")
    made = client(server).videos.create_and_poll(prompt="a fox", input_reference=image, poll_interval_ms=50)
    assert made.status == "completed"
    folder = server.data / "jobs" / made.id / "inputs"
    assert [path.name for path in folder.iterdir()] == ["input_reference-0.png"]
    assert server.client.delete(f"/v1/videos/{made.id}").json()["deleted"]
    eventually(folder.parent.exists, lambda there: not there)


@pytest.mark.filterwarnings("ignore")
def test_the_frames_are_those_of_python(real: Server, tmp_path: Path) -> None:
    """Rendered with the bundled model: the same request and seed give the same frames as through `Renderer`."""
    from animatediff.render import OneFile, Renderer, build_request, load_result

    options = {"num_frames": 4, "steps": 1, "seed": 11, "motion_loras": ["ZoomIn"]}
    made = client(real).videos.create_and_poll(
        prompt="a fox moving right", poll_interval_ms=100,
        extra_body={"num_frames": 4, "num_inference_steps": 1, "seed": 11,
                    "extra_params": {"motion_loras": ["ZoomIn"]}},
    )  # fmt: skip
    assert made.status == "completed", made.error
    client(real).videos.download_content(made.id).write_to_file(tmp_path / "http.mp4")
    (done,) = Renderer().render(
        [build_request({"prompt": "a fox moving right", **options})], OneFile(str(tmp_path / "python.mp4"))
    )
    assert np.array_equal(frames_of(tmp_path / "http.mp4"), frames_of(done.file))
    assert load_result(tmp_path / "http.mp4") == load_result(done.file)

    sync = real.client.post(
        "/v1/videos/sync",
        json={"prompt": "a fox moving right", "num_frames": 4, "num_inference_steps": 1, "seed": 11,
              "extra_params": {"motion_loras": "zoom-in"}},
    )  # fmt: skip
    assert sync.headers["content-type"] == "video/mp4" and sync.content == (tmp_path / "http.mp4").read_bytes()

    # what only the model knows is said by the job, without a folder of this machine
    wrong = {"prompt": "a fox", "num_frames": 4, "num_inference_steps": 1, "extra_params": {"loras": ["bundled/neon"]}}
    job = real.ended(real.client.post("/v1/videos", json=wrong).json()["id"])
    assert job["error"]["code"] == "invalid_request" and job["error"]["message"].startswith("bundled/neon: a whole")
    reply = real.client.post("/v1/videos/sync", json=wrong)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "extra_params.loras")
    video = {"file": ("x", (tmp_path / "http.mp4").read_bytes())}["file"]
    reply = real.client.post(
        "/v1/videos/sync", data={"prompt": "a fox", "num_frames": "9"}, files={"input_reference": video}
    )
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (422, "input_reference")
    assert error["message"].startswith("input_reference: has 4 frames to give, but num_frames=9")
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(image, format="PNG")
    shown = real.client.post(
        "/v1/videos", data={"prompt": "a zorgblat", "num_frames": "2", "num_inference_steps": "1"},
        files={"input_reference": ("x", image.getvalue())},
    ).json()["id"]  # fmt: skip
    notes = real.ended(shown)["details"]["notes"]
    assert any("zorgblat" in note for note in notes) and any("SparseCtrl RGB" in note for note in notes)
    assert not any("/tmp" in note or str(ROOT) in note or str(real.data) in note for note in notes), notes
    assert real.client.get("/health").json()["status"] == "ok"


@pytest.mark.filterwarnings("ignore")
def test_the_lines_of_the_docs_run_as_they_stand(real: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the port, and fewer steps."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "http.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = python.replace("http://127.0.0.1:8000", real.url).replace(
        '"seed": 1', '"seed": 1, "num_inference_steps": 1'
    )
    exec(lines, {})
    assert frames_of(tmp_path / "fox.mp4").shape == (16, 64, 64, 3)
    shells = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    (sync,) = [line for line in shells.splitlines() if "/sync" in line]
    words = shlex.split(sync.replace("http://127.0.0.1:8000", real.url))
    subprocess.run([*words, "-F", "num_inference_steps=1"], check=True, timeout=120)
    assert frames_of(tmp_path / "fox.mp4").shape[0] == 16
    (body,) = re.findall(r"-d '(\{.*?\})'", shells, re.DOTALL)
    reply = real.client.post("/v1/videos", json=json.loads(body) | {"num_inference_steps": 1})
    assert real.ended(reply.json()["id"])["details"]["num_frames"] == 16
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        given = json.loads(block)["extra_params"]
        assert set(given) <= set(EXTRA)

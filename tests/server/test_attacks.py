"""Attacks through paths, headers, uploads and resources: each is refused by one error, and nothing breaks."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support.http_server import Server

from animatediff.media.write import write_video

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that wants a token, takes small bodies, and waits for them not long."""
    with Server(tmp_path_factory.mktemp("guarded") / "data", tokens=[TOKEN], max_upload_mb=1, body_s=1.0) as running:
        yield running


def is_refused(reply: httpx.Response, *status: int) -> dict[str, Any]:
    """The error of a reply, in the one shape that errors have."""
    assert reply.status_code in status, (reply.status_code, reply.text[:500])
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in reply.text and "/root" not in reply.text and "site-packages" not in reply.text
    return error


@pytest.fixture(autouse=True)
def _still_works(server: Server) -> Iterator[None]:
    yield
    assert server.client.get("/health").json()["status"] == "ok"


# -- paths -------------------------------------------------------------------------------------------------------------

PATHS = (
    "/v1/videos/../../../etc/passwd", "/v1/videos/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/videos/..%5c..%5cwindows",
    "/v1/videos/video_" + "0" * 32, "/v1/videos/video_" + "A" * 32, "/v1/videos/%00", "/v1/videos/' OR 1=1 --",
    "/v1/videos/video_" + "0" * 31 + "%0a", "/v1/videos/" + "x" * 5000, "/v1/videos/queue.sqlite3", "/v1/videos/\u202e",
    "/v1/models/../../etc/passwd", "/v1/models/%2fetc%2fpasswd", "/docs", "/redoc", "/v1", "/v1/videos/", "/..", "//",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths(server: Server, path: str) -> None:
    is_refused(server.client.get(path), 404)
    if path.startswith("/v1/videos/"):
        for rest in ("/content", "/events"):
            is_refused(server.client.get(path + rest), 404)
        is_refused(server.client.delete(path), 404, 405)


def test_ids_cannot_be_guessed_and_variants_are_words(server: Server) -> None:
    job = server.create("a fox")["id"]
    server.ended(job)
    for variant in ("../result.mp4", "result.mp4", "", "..", "queue.sqlite3", "%00"):
        assert is_refused(server.client.get(f"/v1/videos/{job}/content", params={"variant": variant}), 400)
    for query in (
        {"limit": "0"},
        {"limit": "1e9"},
        {"limit": "-1"},
        {"order": "up; DROP TABLE jobs"},
        {"after": "' --"},
        {"lmit": "3"},
    ):
        error = is_refused(server.client.get("/v1/videos", params=query), 400)
        assert error["param"] in query
    for method, path in (("get", f"/v1/videos/{job}/content"), ("get", f"/v1/videos/{job}"), ("post", "/v1/videos")):
        error = is_refused(server.client.request(method, path, params={"varient": "thumbnail"}), 400)
        assert (error["param"], error["code"]) == ("varient", "unknown_parameter")
    assert server.client.get("/health", params={"t": "1"}).status_code == 200
    is_refused(server.client.get(f"/v1/videos/{job[:-1]}"), 404)
    is_refused(server.client.put(f"/v1/videos/{job}"), 405)
    reply = server.client.get(f"/v1/videos/{job}/content", headers={"range": "bytes=0-9"})
    assert reply.status_code == 206 and len(reply.content) == 10
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert server.client.get(f"/v1/videos/{job}/content", headers={"range": "bytes=99999999-"}).status_code == 416
    server.client.delete(f"/v1/videos/{job}")


# -- headers -----------------------------------------------------------------------------------------------------------


def raw(server: Server, request: bytes) -> bytes:
    """The reply to bytes as they are."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with contextlib.suppress(OSError):  # a server that has replied may have closed it already
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionResetError):  # what was too long is not read to its end
            while chunk := connection.recv(65536):
                found += chunk
    return found


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer wrong", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN,
        "Bearer \u00ff", f"Bearer {TOKEN},{TOKEN}", "Bearer " + "x" * 20_000,
    ],
)  # fmt: skip
def test_tokens(guarded: Server, header: str) -> None:
    anonymous = httpx.Client(base_url=guarded.url, trust_env=False)
    for path in ("/v1/videos", "/v1/models", "/metrics", "/openapi.json", "/no/such/path"):
        error = is_refused(anonymous.get(path, headers={"authorization": header.encode()}), 401)
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert anonymous.get("/health").status_code == 200
    assert is_refused(anonymous.post("/v1/videos", json={"prompt": "a fox"}), 401)
    assert guarded.client.get("/v1/videos").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "\u00ff"])
def test_names_that_lead_here(server: Server, host: str) -> None:
    """A page of another site whose name was made to lead here (DNS rebinding) may not ask."""
    assert is_refused(server.client.get("/v1/videos", headers={"host": host.encode("latin-1")}), 403, 400)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://["])
def test_pages_of_other_sites(server: Server, origin: str) -> None:
    """A form on a page of another site needs no leave of the browser's to be sent here."""
    before = server.client.get("/v1/videos").json()["data"]
    reply = server.client.post("/v1/videos", files={"prompt": (None, "a fox")}, headers={"origin": origin})
    assert is_refused(reply, 403)["code"] == "unknown_origin"
    assert server.client.get("/v1/videos").json()["data"] == before
    assert server.client.get("/v1/videos", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /v1/videos\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_requests_that_are_none(server: Server, request_text: bytes) -> None:
    reply = raw(server, request_text)
    assert reply == b"" or reply.split()[1][:1] == b"4", reply[:200]


@pytest.mark.parametrize(
    "kind",
    [
        "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 5000, "application/xml", "application/json/../", "\x7f",
    ],
)  # fmt: skip
def test_content_types(server: Server, kind: str) -> None:
    reply = server.client.post("/v1/videos", content=b'{"prompt": "a fox"}', headers={"content-type": kind})
    is_refused(reply, 400, 415)


# -- bodies ------------------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
MANY = b",".join(b'"%d": 1' % number for number in range(60_000))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe{}", b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": NaN}',
        b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "seed": 1e400}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "extra_params": ' + DEEP.encode() + b"}", DEEP.encode(),
        b'{"prompt": "a", "extra_params": {"motion_scale": {' + MANY + b"}}}",
        b'{"prompt": "a", "extra_params": {"prompt_travel": {"99999999999999999999": "b"}}}',
        b'{"prompt": "a", "extra_params": {"keyframes": {"a": {"b": {"c": "d"}}}}}',
        b'{"prompt": "a", "extra_params": {"loras": [{"in_memory": "x", "path": "/etc/passwd"}]}}',
        b'{"prompt": "a", "extra_params": {"image": {"in_memory": "an image", "path": "/etc/passwd"}}}',
        b'{"prompt": "a", "extra_params": {"loras": [[["own.safetensors"]]]}}',
        b'{"prompt": "a", "__class__": "x"}', b'{"prompt": "a", "extra_params": {"__init__": 1}}',
        b'{"prompt": "a", "num_frames": 100000}', b'{"prompt": "a", "num_frames": 512, "size": "4096x4096"}',
        b'{"prompt": "a", "size": "99999x99999"}', b'{"prompt": "a", "width": 800000, "height": 8}',
        b'{"prompt": "a", "seconds": "86400", "fps": 240}', b'{"prompt": "a", "num_inference_steps": 1000}',
        b'{"prompt": "a", "extra_params": {"upscale": 1e9}}', b'{"prompt": "a", "size": "512x512", "num_frames": 400, '
        b'"extra_params": {"upscale": 4}}', b'{"prompt": "' + b"long " * 20_000 + b'"}',
        b'{"prompt": "a", "negative_prompt": "' + b"long " * 20_000 + b'"}', b'{"prompt": "\\ud800"}',
    ],
    ids=lambda body: repr(body[:60]),
)  # fmt: skip
def test_bodies(server: Server, body: bytes) -> None:
    reply = server.client.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    error = is_refused(reply, 400)
    assert len(reply.content) < 4000 and "\n" not in error["message"]


def test_large_and_slow_bodies(guarded: Server) -> None:
    """Bounded by what they say, by what they send, and by the time that they take."""
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\n"
    assert raw(guarded, f"{head}Content-Length: 99999999999\r\n\r\n{{".encode()).split()[1] == b"413"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(tuple(guarded.url[7:].split(":")), timeout=60) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 17)
        assert connection.recv(65536).split()[1] == b"413"
    with socket.create_connection(tuple(guarded.url[7:].split(":")), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert connection.recv(65536).split()[1] == b"408"
    assert guarded.client.get("/v1/videos").status_code == 200


# -- uploads -----------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says so of its size, whatever it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png(width: int = 16, height: int = 16) -> bytes:
    return png_of(width, height, zlib.compress(b"\0" * (height * (1 + 3 * width))))


def zip_bomb() -> bytes:
    """Some kilobytes that come to gigabytes of pixels."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    return png_of(30_000, 30_000, packed)


def text_bomb() -> bytes:
    """A compressed comment of many megabytes."""
    text = b"Comment\0\0" + zlib.compress(b"a" * 2**27, 9)
    own = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = png()
    return whole[:33] + own + whole[33:]


WRONG_FILES = {
    "zip bomb": zip_bomb,
    "text bomb": text_bomb,
    "huge size": lambda: png_of(2**31 - 1, 2**31 - 1, b"x"),
    "no pixels": lambda: png_of(0, 0, b""),
    "cut off": lambda: png(64, 64)[:60],
    "damaged": lambda: png()[:50] + b"\xff" * 20,
    "empty": lambda: b"",
    "text": lambda: b"a text file",
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "zip": lambda: b"PK\x03\x04" + b"\0" * 100,
    "program": lambda: b"\x7fELF" + b"\0" * 100,
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file\n",
    "playlist": lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
    "concat script": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "binary playlist": lambda: (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\xff\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ),
    "subtitles": lambda: b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
    "zeros": lambda: bytes(5000),
    "mp4 head": lambda: b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00" * 64,
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_uploads(server: Server, name: str) -> None:
    """Judged before they are decoded, in JSON and in forms, as image and as either."""
    content = WRONG_FILES[name]()
    before = sorted(path.name for path in (server.data / "jobs").iterdir())
    for field in ("input_reference", "image_reference"):
        reply = server.client.post(
            "/v1/videos", data={"prompt": "a fox"}, files={field: ("a.png", content, "image/png")}
        )
        error = is_refused(reply, 400)
        assert error["param"] == field and error["code"] == "invalid_file", error
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    reply = server.client.post("/v1/videos", json={"prompt": "a fox", "extra_params": {"image": url}})
    assert is_refused(reply, 400)["param"] == "extra_params.image"
    assert sorted(path.name for path in (server.data / "jobs").iterdir()) == before


@pytest.mark.parametrize(
    "name",
    [
        "../../../../tmp/evil.png", "/etc/cron.d/evil", "..\\..\\evil.png", "a\0.png", "con", "x" * 3000 + ".png",
        ".bashrc", "a.png; rm -rf /", "$(id).png", "\u202egnp.exe", "a.sqlite3", "'; DROP TABLE jobs; --.png",
    ],
)  # fmt: skip
def test_names_of_files_are_no_paths(server: Server, name: str) -> None:
    boundary = "b0undary"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox\r\n--{boundary}\r\n'
        f'Content-Disposition: form-data; name="input_reference"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    ).encode() + png() + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
    reply = server.client.post(
        "/v1/videos", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    if reply.status_code == 200:
        job = reply.json()["id"]
        assert [path.name for path in (server.data / "jobs" / job / "inputs").iterdir()] == ["input_reference-0.png"]
        server.client.delete(f"/v1/videos/{job}")
    else:
        is_refused(reply, 400)
    assert {path.name for path in server.data.iterdir()} <= {
        "jobs", "lock", "queue.sqlite3", "queue.sqlite3-wal", "queue.sqlite3-shm", "renders.txt", "samples"
    }  # fmt: skip


def test_kinds_belong_to_their_fields(server: Server, tmp_path: Path) -> None:
    video = write_video(np.zeros((4, 16, 16, 3), np.uint8), tmp_path / "a.mp4").read_bytes()
    gif = write_video(np.zeros((4, 16, 16, 3), np.uint8), tmp_path / "a.gif").read_bytes()
    for field, content in (("image_reference", video), ("image", video), ("video_reference", b"text")):
        reply = server.client.post("/v1/videos", data={"prompt": "a"}, files={field: ("x", content)})
        assert field in str(is_refused(reply, 400)["param"])
    for field, content in (("video_reference", video), ("input_reference", gif), ("input_reference", video)):
        reply = server.client.post("/v1/videos", data={"prompt": "a"}, files={field: ("x", content)})
        assert reply.status_code == 200, reply.text
        assert next((server.data / "jobs" / reply.json()["id"] / "inputs").iterdir()).name.startswith(f"{field}-0.")
    is_refused(server.client.post("/v1/videos", data={"prompt": "a"}, files={"prompt": ("x", b"a fox")}), 400)


def test_too_many_files_and_fields(server: Server) -> None:
    many = [("control_images", ("a.png", png(), "image/png"))] * 100
    is_refused(server.client.post("/v1/videos", data={"prompt": "a"}, files=many), 400)
    fields = {f"extra_params[a{number}]": "1" for number in range(1000)}
    is_refused(server.client.post("/v1/videos", data=fields, files={"prompt": (None, "a")}), 400)


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_streams_are_bounded_and_leave_their_place(tmp_path: Path) -> None:
    with Server(tmp_path / "data", max_streams=2) as server:
        job = server.create("slow=30")["id"]
        with (
            server.client.stream("GET", f"/v1/videos/{job}/events") as one,
            server.client.stream("GET", f"/v1/videos/{job}/events") as two,
        ):
            assert one.status_code == two.status_code == 200
            assert is_refused(server.client.get(f"/v1/videos/{job}/events"), 429)["code"] == "too_many_streams"
            is_refused(server.client.post("/v1/videos/sync", json={"prompt": "a"}), 429)
            server.client.delete(f"/v1/videos/{job}")
            assert list(one.iter_lines())[-3:-1] == ["event: deleted", json.dumps(
                {"id": job, "object": "video.deleted", "deleted": True}).join(("data: ", ""))]  # fmt: skip
            two.read()
        server.ended(job := server.create("a fox")["id"])
        assert "event: completed" in server.client.get(f"/v1/videos/{job}/events").text


def test_events_tell_progress_previews_and_the_end(server: Server) -> None:
    job = server.create("slow=1.5")["id"]
    with server.client.stream("GET", f"/v1/videos/{job}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = "".join(reply.iter_text())
    found = [part.split("\n") for part in text.strip().split("\n\n") if part.startswith("event")]
    names = [lines[0].removeprefix("event: ") for lines in found]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in found]
    assert names[-1] == "completed" and {"progress", "preview"} <= set(names) and data[-1]["progress"] == 100
    percents = [item["progress"] for item in data if "progress" in item]
    assert percents == sorted(percents)
    preview = next(item for name, item in zip(names, data, strict=True) if name == "preview")
    with Image.open(io.BytesIO(base64.b64decode(preview["image_url"].partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (8, 8))


def test_a_client_that_goes_away_cancels_its_video(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/videos/sync", json={"prompt": "slow=50"}, timeout=2.0)
    from support.http_server import eventually

    def is_left() -> bool:
        return any(video["prompt"] == "slow=50" for video in server.client.get("/v1/videos?limit=100").json()["data"])

    eventually(is_left, lambda left: not left)


def test_many_at_once(server: Server) -> None:
    """Fifty wrong uploads at once: all are told so, and others are served meanwhile."""
    content, found = zip_bomb(), list[int]()

    def send() -> None:
        reply = server.client.post("/v1/videos", data={"prompt": "a"}, files={"image": ("a.png", content)})
        found.append(reply.status_code)

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    assert server.client.get("/health").status_code == 200
    for thread in threads:
        thread.join()
    assert found == [400] * 50

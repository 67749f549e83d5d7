"""WebDataset shards, local and over http: all read once, exactly resumed, broken ones survived."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import logging
import pickle
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.videos import numbered_video, numbers, write_shard

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia
from animatediff.training.data import ClipLoader, DataConfig, ShardClips, check_data, open_dataset
from animatediff.training.data import tar as tar_module
from animatediff.training.data.tar import expand, read_samples

SMALL: dict[str, Any] = {"num_frames": 2, "stride": 1, "height": 48, "width": 96, "shuffle_block": 3}
SIZES = (5, 1, 7, 4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 5, 1, 7 and 4 clips; the frames of clip k of shard s show 50 s + 5 k onwards."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, size in enumerate(SIZES):
        samples = []
        for k in range(size):
            video = numbered_video(folder / "clip.mp4", 3, first=50 * shard + 5 * k).read_bytes()
            text = f"shard {shard} clip {k}"
            caption = {"txt": text.encode()} if k % 2 else {"json": json.dumps({"caption": text}).encode()}
            samples.append((f"{'long name ' * 12 if k == 1 else ''}{shard}{k:03d}", {"mp4": video, **caption}))
        write_shard(folder / f"data-{shard:02d}.tar", samples)
    return folder


def config(folder: Path | str, pattern: str = "data-{00..03}.tar", **settings: Any) -> DataConfig:
    return DataConfig(path=f"{folder}/{pattern}", **{**SMALL, **settings})


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, with ranges if `ranges`; breaks off after `limit` bytes for the first `breaks` requests."""

    ranges, limit, breaks = True, 10**9, 0
    requests: list[tuple[str, str | None]] = []  # noqa: RUF012 - reset by the fixture

    def do_GET(self) -> None:
        kind = type(self)
        kind.requests.append((self.path, self.headers.get("Range")))
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            return self.send_error(404)
        content, begin = file.read_bytes(), 0
        if kind.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            begin = int(found[1])
            if begin >= len(content):
                return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        body = content[begin:]
        if kind.breaks > 0:
            kind.breaks -= 1
            body = body[: kind.limit]
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which the shards are served."""
    monkeypatch.setattr(tar_module, "PAUSES_S", (0, 0, 0))
    Handler.ranges, Handler.limit, Handler.breaks, Handler.requests = True, 10**9, 0, []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


def take(source: Any, count: int) -> list[Any]:
    return list(itertools.islice(iter(source), count))


def dataset(given: DataConfig, **options: Any) -> ShardClips:
    opened = open_dataset(given, **options)
    assert isinstance(opened, ShardClips)
    return opened


def test_names() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
    assert expand("plain.tar") == ["plain.tar"]
    with pytest.raises(UserError, match=r"runs backwards; write \{0..3\}"):
        expand("{3..0}.tar")
    with pytest.raises(UserError, match="is no range"):
        expand("{a..b}.tar")


def test_every_clip_once_an_epoch(shards: Path) -> None:
    items = take(dataset(config(shards)), 3 * sum(SIZES))
    for item in items:
        shard, clip = (int(word) for word in re.findall(r"\d+", item["text"]))
        first = numbers(item["frames"])[0]
        assert first - (50 * shard + 5 * clip) in (0, 1) and numbers(item["frames"]) == [first, first + 1]
    epochs = [[item["text"] for item in items[i : i + 17]] for i in (0, 17, 34)]
    assert all(len(set(epoch)) == 17 for epoch in epochs) and epochs[0] != epochs[1]


@pytest.mark.parametrize("pattern", ["*.tar", "data-*.tar", ""])
def test_ways_of_naming(shards: Path, pattern: str) -> None:
    assert len(take(dataset(config(shards, pattern, kind="webdataset")), 17)) == 17


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 5, 9])
def test_readers_share_all_samples(shards: Path, readers: int) -> None:
    """However many there are: together they see everything once, fewer shards than readers or not."""
    whole = dataset(config(shards, shuffle_block=2))
    seen = Counter()
    for reader in range(readers):
        for share in whole.shares(0, reader, readers):
            from animatediff.training.data.shards import Position

            for sample, _ in whole._samples(share, Position()):
                seen[sample.name] += 1
    assert len(seen) == 17 and set(seen.values()) == {1}


@pytest.mark.parametrize(("num_workers", "rank", "world_size"), [(0, 0, 1), (2, 0, 1), (2, 1, 2), (3, 1, 2)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("after", [1, 4])
def test_resume_is_exact(shards: Path, num_workers: int, rank: int, world_size: int, after: int) -> None:
    def loader() -> ClipLoader:
        clips = dataset(config(shards), rank=rank, world_size=world_size)
        return ClipLoader(clips, 2, num_workers=num_workers, rank=rank, world_size=world_size)

    straight = take(loader(), after + 7)
    first = loader()
    take(first, after)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    for batch, expected in zip(take(resumed, 7), straight[after:], strict=True):
        assert batch["key"] == expected["key"] and batch["place"] == expected["place"]
        assert torch.equal(batch["frames"], expected["frames"])


def test_resume_with_other_workers_warns_and_begins_the_epoch_again(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ClipLoader(dataset(config(shards)), 2, num_workers=2)
    take(first, 14)
    epoch = first.state_dict()["source"]["epoch"]
    assert epoch >= 1
    resumed = ClipLoader(dataset(config(shards)), 2)
    resumed.load_state_dict(first.state_dict())
    with caplog.at_level(logging.WARNING):
        batches = take(resumed, 3)
    assert f"beginning of epoch {epoch}" in caplog.text
    again = dataset(config(shards))
    again.first_epoch = epoch
    assert [key for batch in batches for key in batch["key"]] == [item["key"] for item in take(again, 6)]
    assert resumed.state_dict()["source"]["num_workers"] == 1


def test_shard_datasets_go_to_processes_that_do_not_share_memory(shards: Path) -> None:
    whole = dataset(config(shards))
    assert next(iter(pickle.loads(pickle.dumps(whole))))["key"] == next(iter(whole))["key"]


def test_resume_with_other_shards_is_refused(shards: Path) -> None:
    loader = ClipLoader(dataset(config(shards)), 2)
    take(loader, 1)
    with pytest.raises(UserError, match="made with other shards"):
        ClipLoader(dataset(config(shards, "data-{00..02}.tar")), 2).load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match=r"made with data\.seed=0"):
        ClipLoader(dataset(config(shards, seed=1)), 2).load_state_dict(loader.state_dict())


def test_over_http(shards: Path, server: str) -> None:
    local, remote = (take(dataset(config(place)), 25) for place in (shards, server))
    assert [item["key"] for item in local] == [item["key"] for item in remote]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(local, remote, strict=True))


@pytest.mark.parametrize("ranges", [True, False])
def test_http_resume_and_ranges(server: str, ranges: bool) -> None:
    Handler.ranges = ranges
    whole = list(read_samples(f"{server}/data-02.tar"))
    Handler.requests.clear()
    rest = list(read_samples(f"{server}/data-02.tar", whole[4].begin))
    assert [s.name for s in rest] == [s.name for s in whole[4:]] and [s.begin for s in rest] == [
        s.begin for s in whole[4:]
    ]
    assert rest[0].files == whole[4].files
    assert Handler.requests == [("/data-02.tar", f"bytes={whole[4].begin}-")]


def test_a_connection_that_breaks_is_taken_up_again(server: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = [(s.name, s.files) for s in read_samples(f"{server}/data-02.tar")]
    size = list(read_samples(f"{server}/data-02.tar"))[-1].end
    for limit in (100, size // 3, size // 2, size - 700, size):
        Handler.breaks, Handler.limit = 2, limit
        with caplog.at_level(logging.WARNING):
            assert [(s.name, s.files) for s in read_samples(f"{server}/data-02.tar")] == whole
    assert "connection broke" in caplog.text


def test_a_server_that_is_not_there(server: str) -> None:
    with pytest.raises(BadMedia, match="the server answered 404"):
        list(read_samples(f"{server}/data-09.tar"))
    with pytest.raises(BadMedia, match="cannot be fetched"):
        list(read_samples("http://127.0.0.1:9/data-09.tar"))
    with pytest.raises(UserError, match=r"data-07.tar \(the server answered 404"):
        check_data(config(server, "data-0{7,8}.tar"))


def test_a_missing_remote_shard_is_passed_over_and_named(server: str) -> None:
    loader = ClipLoader(dataset(config(server, "data-{00..04}.tar")), 2)
    take(loader, 20)
    assert loader.bad == {f"{server}/data-04.tar": "the server answered 404 Not Found"}


def test_compressed(shards: Path, tmp_path: Path) -> None:
    samples = [(s.name, s.files) for s in read_samples(str(shards / "data-02.tar"))]
    path = write_shard(tmp_path / "a.tar.gz", samples, "w:gz")
    whole = list(read_samples(str(path)))
    assert [(s.name, s.files) for s in whole] == samples
    assert [s.name for s in read_samples(str(path), whole[3].begin)] == [name for name, _ in samples[3:]]


def test_broken_shards_and_samples(shards: Path, tmp_path: Path) -> None:
    good = [(s.name, s.files) for s in read_samples(str(shards / "data-00.tar"))]
    write_shard(tmp_path / "0.tar", [*good[:2], ("bad", {"mp4": b"words", "txt": b"x"}), ("only", {"txt": b"x"}),
                                     ("latin", {"mp4": good[0][1]["mp4"], "txt": b"\xfc"})])  # fmt: skip
    whole = write_shard(tmp_path / "1.tar", good).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.tar").write_text("<html>sign in</html>")
    (tmp_path / "3.tar").write_bytes(b"")
    given = DataConfig(path=f"{tmp_path}/{{0..3}}.tar", **SMALL)
    with pytest.raises(UserError) as caught:
        check_data(given)
    for part in (
        "0.tar: bad (is a text file)", "only (holds no video or image, only txt)", "latin (caption is not UTF-8)",
        "2.tar (is a web page", "6 unreadable", "1.tar (is no tar file, or ends early",
    ):  # fmt: skip
        assert part in str(caught.value)
    loader = ClipLoader(dataset(given), 2)
    keys = [key.split("#")[0] for batch in take(loader, 8) for key in batch["key"]]
    assert {key.split("/")[0] for key in keys} == {"0.tar", "1.tar"}
    assert {name.rsplit("/", 1)[1] for name in loader.bad} == {
        "0.tar: bad", "0.tar: only", "0.tar: latin", "1.tar", "2.tar", "3.tar"
    }  # fmt: skip


def test_check_of_good_shards(shards: Path, server: str) -> None:
    for place in (shards, server):
        report = check_data(config(place))
        assert (report.num_listed, report.num_opened, report.bad_share) == (4, 17, 0)
    with pytest.raises(UserError, match=r"1 of 5 shards are missing, the first is .*data-04\.tar"):
        check_data(config(shards, "data-{00..04}.tar"))
    with pytest.raises(UserError, match="no file matches"):
        check_data(config(shards, "other-*.tar"))


def test_no_clips_at_all_end_with_a_message(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("a", {"txt": b"x"})])
    with pytest.raises(UserError, match=r"10 shards read one after the other gave no clip, .*holds no video or image"):
        take(dataset(DataConfig(path=f"{tmp_path}/0.tar", **SMALL)), 1)


def test_more_workers_than_clips_end_with_a_message(shards: Path) -> None:
    loader = ClipLoader(dataset(config(shards, "data-01.tar")), 1, num_workers=2)
    with pytest.raises(UserError, match="fewer clips than processes and loader workers"):
        take(loader, 4)

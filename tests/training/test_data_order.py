"""The order of clips: the same for any number of processes and workers, and exactly resumable."""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support.videos import numbered_video
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia
from animatediff.training.data import ClipDataset, ClipIndex, ClipLoader, ClipSampler, DataConfig, open_dataset


class Counted(ClipDataset):
    """Clips that show their epoch and index and a number drawn for them; those in `broken` cannot be used."""

    def __init__(self, num: int, broken: tuple[int, ...] = ()) -> None:
        super().__init__(DataConfig(path="counted", seed=3))
        self.num, self.broken = num, broken

    def __len__(self) -> int:
        return self.num

    def name(self, index: int) -> str:
        return f"clip {index}"

    def clip(self, index: int, epoch: int) -> tuple[str, str, Any]:
        if index in self.broken:
            raise BadMedia("is broken")
        return f"{epoch}/{index}", f"text {index}", (epoch, index, random.Random(f"{epoch}/{index}").random())

    def frames(self, what: Any) -> Tensor:
        return torch.tensor(what).view(1, 3, 1, 1)


def take(source: Any, count: int) -> list[Any]:
    return list(itertools.islice(iter(source), count))


def test_every_clip_once_an_epoch_in_another_order() -> None:
    drawn = take(ClipSampler(7, seed=1), 21)
    assert [at.epoch for at in drawn] == [0] * 7 + [1] * 7 + [2] * 7
    orders = [tuple(at.number for at in drawn[i : i + 7]) for i in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in orders) and len(set(orders)) == 3
    assert take(ClipSampler(7, seed=1), 21) == drawn != take(ClipSampler(7, seed=2), 21)
    assert take(ClipSampler(3, shuffle=False), 4) == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_share_one_sequence(world_size: int) -> None:
    whole = take(ClipSampler(7, seed=1), 60)
    ranks = [take(ClipSampler(7, seed=1, rank=r, world_size=world_size), 60 // world_size) for r in range(world_size)]
    assert [at for step in zip(*ranks, strict=True) for at in step] == whole


@pytest.mark.parametrize("after", [0, 1, 6, 7, 20])
def test_resume_with_another_number_of_processes(after: int) -> None:
    whole = take(ClipSampler(7, seed=1), 60)
    old = ClipSampler(7, seed=1, rank=1, world_size=2)
    take(old, 30)  # what loaders have fetched ahead does not count
    old.advance(after)
    state = old.state_dict()
    assert (state["epoch"], state["index"]) == divmod(2 * after, 7)
    new = [ClipSampler(7, seed=1, rank=r, world_size=3) for r in range(3)]
    for sampler in new:
        sampler.load_state_dict(state)
    assert [at for step in zip(*(take(s, 5) for s in new), strict=True) for at in step] == whole[2 * after :][:15]


def test_resume_with_other_data_is_refused() -> None:
    state = ClipSampler(7, seed=1).state_dict()
    with pytest.raises(UserError, match="made with 7 as the usable clips in the data, now it is 8"):
        ClipSampler(8, seed=1).load_state_dict(state)
    with pytest.raises(UserError, match=r"1 as the data\.seed, now it is 2"):
        ClipSampler(7, seed=2).load_state_dict(state)


def same(a: Any, b: Any) -> bool:
    return a["key"] == b["key"] and a["place"] == b["place"] and torch.equal(a["frames"], b["frames"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_to_the_batch(num_workers: int) -> None:
    straight = take(ClipLoader(Counted(7), 3), 9)
    assert [place for batch in straight for place in batch["place"]] == list(range(27))
    loader = ClipLoader(Counted(7), 3, num_workers=num_workers)
    first = take(loader, 4)
    resumed = ClipLoader(Counted(7), 3, num_workers=num_workers)
    resumed.load_state_dict(loader.state_dict())
    for batch, expected in zip(first + take(resumed, 5), straight, strict=True):
        assert same(batch, expected)


def test_two_processes_of_half_the_batch_see_one_batch() -> None:
    whole = take(ClipLoader(Counted(7), 4), 6)
    halves = [take(ClipLoader(Counted(7), 2, rank=rank, world_size=2), 6) for rank in range(2)]
    for batch, pair in zip(whole, zip(*halves, strict=True), strict=True):
        assert sorted(batch["key"]) == sorted(key for half in pair for key in half["key"])
        assert sorted(batch["place"]) == sorted(place for half in pair for place in half["place"])


def test_iterating_again_goes_on() -> None:
    loader = ClipLoader(Counted(7), 3)
    assert [b["key"] for b in take(loader, 2) + take(loader, 2)] == [
        b["key"] for b in take(ClipLoader(Counted(7), 3), 4)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_items_are_replaced_alike_and_named_once(num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Counted(7, broken=(2, 5))
    loader = ClipLoader(dataset, 3, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        batches = take(loader, 14)
    drawn = [key for batch in batches for key in batch["key"]]
    assert len(drawn) == 42 and not {key.split("/")[1] for key in drawn} & {"2", "5"}
    assert Counter(key.split("/")[0] for key in drawn) == Counter({str(epoch): 7 for epoch in range(6)})
    assert loader.bad == {"clip 2": "is broken", "clip 5": "is broken"}
    assert caplog.text.count("clip 2: is broken; another clip is taken instead") == 1
    assert drawn == [key for batch in take(ClipLoader(dataset, 3), 14) for key in batch["key"]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_all_broken_ends_with_one_message(num_workers: int) -> None:
    loader = ClipLoader(Counted(3, broken=(0, 1, 2)), 2, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        take(loader, 1)
    assert str(caught.value).startswith("counted: 10 clips drawn one after the other could not be used")
    assert "Traceback" not in str(caught.value)


def test_index_beyond_the_end() -> None:
    with pytest.raises(IndexError):
        Counted(3)[3]
    assert Counted(3)[1]["key"] == Counted(3)[ClipIndex(0, 1)]["key"] == "0/1"


@pytest.mark.slow
def test_real_clips_do_not_hang_on_workers(tmp_path: Path) -> None:
    for i in range(3):
        numbered_video(tmp_path / f"{i}.mp4", 20, f"video {i}", first=i * 30)
    config = DataConfig(path=str(tmp_path), num_frames=4, stride=3, height=32, width=32, flip=True)
    one, two = (take(ClipLoader(open_dataset(config), 2, num_workers=n), 6) for n in (0, 2))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert len({key for batch in one for key in batch["key"]}) == 12  # another clip of each video in every epoch

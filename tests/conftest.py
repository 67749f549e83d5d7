"""What all tests share: no network, few threads, and fixtures of several files."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline

pytest.register_assert_rewrite("support")  # before anything imports it

# Before any library reads them: the suite must pass on a machine without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread for each process that tests run in: they run side by side. No result may depend on it.
# What is measured on this machine once is not left in the home of who runs the tests.
_caches = tempfile.TemporaryDirectory(prefix="animatediff-tests-")
os.environ["XDG_CACHE_HOME"] = _caches.name
os.environ["OMP_NUM_THREADS"] = os.environ.get("ANIMATEDIFF_TEST_THREADS", "1")

# Programs that tests start keep what Python makes of their files, where a shell says not to: else each start compiles
# the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell ignores SIGINT in what it starts in the background; tests send it to themselves and to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with suppress(ValueError):  # in a thread that is not the main one
        signal.signal(signal.SIGINT, signal.default_int_handler)

NOISE = float(os.environ.get("ANIMATEDIFF_TEST_NOISE", "0"))
"""Share by which outputs of UNets are off, such as 3e-6: more than the rounding of any machine, less than any fault."""


_frozen_modules = 0


def _freeze_imports() -> None:
    """Leave what is imported by now out of every later garbage collection: millions of objects that live to the end."""
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + 20:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests of servers and of other programs wait most of their time."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_finish() -> None:
    """Before the first test. Few garbage collections from then on: in these processes they were a tenth of the time."""
    _freeze_imports()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """After a test that imported more, once its fixtures are gone."""
    yield
    _freeze_imports()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine fails at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(host, str) and (host in ("127.0.0.1", "::1", "localhost") or host.startswith("/")):
            return connect(self, address)
        raise AssertionError(f"a test tried to reach the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _noise(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests pass whatever the last bits are: ANIMATEDIFF_TEST_NOISE changes them, except in tests marked `exact`."""
    with pytest.MonkeyPatch.context() as patch:  # not that of the test, which may undo it
        if NOISE and request.node.get_closest_marker("exact") is None:
            from diffusers import UNet2DConditionModel
            from support.disturb import disturbing

            patch.setattr(UNet2DConditionModel, "forward", disturbing(UNet2DConditionModel.forward, NOISE))
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden cases, one folder a family."""
    from support.paths import GOLDEN

    return GOLDEN


@pytest.fixture
def pipe() -> AnimateDiffPipeline:
    """The pipeline of the golden models of v3."""
    from support.pipelines import pipeline

    return pipeline()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both encoders for the bundled model, random where they would be trained."""
    import torch
    from diffusers import UNet2DConditionModel

    from animatediff.bundled import bundled_path
    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.weights.sparsectrl import save_sparsectrl

    folder = tmp_path_factory.mktemp("encoders")
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    for kind in ("rgb", "scribble"):
        torch.manual_seed(0)
        encoder = SparseCtrl.from_unet(unet, kind=kind, vae_scale_factor=4)
        first = encoder.controlnet_cond_embedding if kind == "rgb" else encoder.controlnet_cond_embedding.conv_out
        for layer in (first, *encoder.controlnet_down_blocks, encoder.controlnet_mid_block):
            torch.nn.init.normal_(layer.weight, std=0.05)
        save_sparsectrl(encoder, folder / f"{kind}.safetensors")
    return folder

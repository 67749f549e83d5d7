"""Backends of reForge and Forge Neo on a stub of both: clips through the UNet, windows, and everything put back."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from animatediff_webui.backends import choose, host_name
from animatediff_webui.backends.forge import Forge
from animatediff_webui.backends.neo import Neo
from animatediff_webui.backends.patcher import PatcherBackend
from animatediff_webui.job import Job
from animatediff_webui.settings import Settings
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from support.forge_stub import CONTEXT, Host, InterruptedException
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, Window, attach_ldm, layout_of_ldm, plan_windows
from animatediff.motion.attach import has_hooks
from animatediff.weights.families import FAMILIES

FRAMES = 6


@pytest.fixture(params=["forge", "neo"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stub(kind: str, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch, kind)


@pytest.fixture
def backend(kind: str) -> PatcherBackend:
    return {"forge": Forge, "neo": Neo}[kind]()


def job_of(stub: Host, family: str = "v3", windows: Sequence[Window] = ()) -> Job:
    """A clip of 6 frames with motion modules that move things."""
    torch.manual_seed(4)
    facts = FAMILIES[family]
    adapter = MotionAdapter(layout_of_ldm(stub.unet, mid_block=family == "v2"), facts.numerics).eval()
    for name, value in adapter.named_parameters():
        if name.endswith("proj_out.weight"):
            torch.nn.init.normal_(value, std=0.3)
    return Job(
        settings=Settings(), base="sd1", num_frames=FRAMES, windows=windows, model_path=Path("mm.safetensors"),
        adapter=adapter.requires_grad_(False), family=facts,
    )  # fmt: skip


def inputs(clips: int, frames: int = FRAMES) -> dict[str, Any]:
    """Arguments of a call of the UNet, as hosts give them: each image with its own text."""
    torch.manual_seed(5)
    rows = clips * frames
    control = torch.randn(rows, 1, 1, 1)
    return {
        "x": torch.randn(rows, 4, 8, 8), "timesteps": torch.full((rows,), 500.0),
        "context": torch.randn(rows, 3, CONTEXT), "control": {"input": [control, None, 2 * control]},
        "transformer_options": {
            "cond_or_uncond": [1, 0][:clips], "sigmas": torch.arange(frames) + 1.0,
            "cond_mark": torch.arange(rows), "cond_indices": [], "uncond_indices": [], "patches": {"kept": [len]},
        },
    }  # fmt: skip


def call(stub: Host, given: dict[str, Any]) -> Tensor:
    """Call the UNet as the host does; `control` loses its parts."""
    given = dict(given)
    given["control"] = {name: [part for part in parts if part is not None] for name, parts in given["control"].items()}
    with torch.no_grad():
        return stub.model.diffusion_model(given.pop("x"), given.pop("timesteps"), **given)


def rows(given: dict[str, Any], places: list[int]) -> dict[str, Any]:
    """The same arguments for some of the images."""

    def cut(value: Any) -> Any:
        return value[places] if isinstance(value, Tensor) else value

    control = {name: [cut(part) for part in parts] for name, parts in given["control"].items()}
    return {**{name: cut(value) for name, value in given.items()}, "control": control, "transformer_options": {}}


def alone(stub: Host, job: Job, given: dict[str, Any], frames: int = FRAMES) -> Tensor:
    """What the UNet gives for one clip with the motion modules attached by hand."""
    attachment = attach_ldm(stub.unet, job.adapter)
    with attachment.frames.during(frames):
        out = call(stub, given)
    attachment.detach()
    return out


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
def test_each_clip_of_a_batch_moves_by_itself(stub: Host, backend: PatcherBackend, family: str) -> None:
    job, given = job_of(stub, family), inputs(2)
    expected = [alone(stub, job, rows(given, list(range(clip * FRAMES, (clip + 1) * FRAMES)))) for clip in (0, 1)]
    still = call(stub, given)
    with backend.attach(stub.p, job):
        moved = call(stub, given)
    torch.testing.assert_close(moved, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert float((moved - still).abs().max()) > 0.1


def test_conditionings_apart_are_clips_too(stub: Host, backend: PatcherBackend) -> None:
    job, both = job_of(stub, "v1"), inputs(2)
    with backend.attach(stub.p, job):
        together = call(stub, both)
        apart = []
        for clip in (0, 1):
            one = rows(both, list(range(clip * FRAMES, (clip + 1) * FRAMES)))
            apart.append(call(stub, one | {"transformer_options": {"cond_or_uncond": [clip]}}))
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["v1", "v3"])
def test_windows_are_calls_of_their_own_that_blend(stub: Host, backend: PatcherBackend, family: str) -> None:
    """Texts, ControlNet's residuals and noise levels of a window's frames go with it, from both clips of the batch."""
    windows = plan_windows(FRAMES, 4, 2, closed_loop=True)
    job, given = job_of(stub, family, windows), inputs(2)
    expected = torch.zeros(2 * FRAMES, 4, 8, 8)
    for clip in (0, 1):
        for window in windows:
            places = [clip * FRAMES + frame for frame in window.frames]
            out = alone(stub, job, rows(given, places), frames=4)
            expected[places] += out * window.share[:, None, None, None]
    stub.unet.seen.clear()
    with backend.attach(stub.p, job):
        moved = call(stub, given)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)
    assert [seen["rows"] for seen in stub.unet.seen] == [8] * len(windows)
    for window, seen in zip(windows, stub.unet.seen, strict=True):
        frames = list(window.frames)
        assert seen["sigmas"].tolist() == [frame + 1.0 for frame in frames]
        assert seen["cond_mark"].tolist() == [*frames, *(FRAMES + frame for frame in frames)]
        assert seen["uncond_indices"] == [0, 1, 2, 3]
        assert seen["cond_indices"] == [4, 5, 6, 7]
        assert seen["patches"] == {"kept": [len]}


def state_of(stub: Host) -> dict[str, Any]:
    """Whatever a backend may have touched."""
    with torch.no_grad():
        return {
            "out": call(stub, inputs(2)), "forward": vars(stub.unet).get("forward"),
            "hooks": has_hooks(stub.unet), "patcher": stub.sd_model.forge_objects.unet,
            "sigmas": stub.model.predictor.sigmas, "log_sigmas": stub.model.predictor.log_sigmas,
            "alphas": getattr(stub.sd_model, "alphas_cumprod", None), "keys": sorted(stub.model.state_dict()),
            "options": dict(stub.sd_model.forge_objects.unet.model_options),
        }  # fmt: skip


@pytest.mark.parametrize("end", ["success", "error", "interrupt"])
def test_everything_is_as_before(stub: Host, backend: PatcherBackend, end: str) -> None:
    job = job_of(stub, "v1", plan_windows(FRAMES, 4, 2))
    before = state_of(stub)
    error = {"success": None, "error": RuntimeError, "interrupt": InterruptedException}[end]
    for _ in range(2):
        with pytest.raises(error) if error else nullcontext(), backend.attach(stub.p, job):
            stub.prepare()
            before["patcher"] = stub.sd_model.forge_objects_after_applying_lora.unet
            backend.before_sampling(stub.p, job)
            stub.load()
            call(stub, inputs(2))
            if error:
                raise error
        after = state_of(stub)
        assert torch.equal(after.pop("out"), before["out"])
        assert after == {name: value for name, value in before.items() if name != "out"}
        assert stub.memory.current_loaded_models == []
        assert all(value.device.type == "cpu" for value in job.adapter.parameters())


def test_the_noise_schedule_of_the_family_reaches_samplers_and_unet(stub: Host, backend: PatcherBackend) -> None:
    """In txt2img before the sampler is made, in img2img by making it again."""
    job, stub.p.sampler = job_of(stub), "made before"
    assert job.alphas_cumprod is not None
    before = stub.model.predictor.sigmas
    expected = ((1 - job.alphas_cumprod) / job.alphas_cumprod) ** 0.5
    assert float((before - expected).abs().max()) > 0.5
    with backend.attach(stub.p, job):
        assert torch.equal(stub.model.predictor.sigmas, expected)
        torch.testing.assert_close(stub.model.predictor.log_sigmas, expected.log())
        assert stub.p.sampler == ("Euler", stub.sd_model.forge_objects)
        if hasattr(stub.sd_model, "alphas_cumprod"):
            assert torch.equal(stub.sd_model.alphas_cumprod, job.alphas_cumprod)
    assert torch.equal(stub.model.predictor.sigmas, before)


def test_zero_terminal_snr_of_the_host_stays(stub: Host, backend: PatcherBackend) -> None:
    """The family's schedule is stretched as diffusers does it, but for a last level that is finite."""
    job, predictor = job_of(stub), stub.model.predictor
    predictor.set_sigmas(torch.cat([predictor.sigmas[:-1], torch.tensor([4518.0])]))
    assert job.alphas_cumprod is not None
    shares = torch.cat([torch.ones(1), job.alphas_cumprod])
    stretched = torch.cumprod(1 - rescale_zero_terminal_snr(1 - shares[1:] / shares[:-1]), dim=0)
    with backend.attach(stub.p, job):
        got = 1 / (predictor.sigmas**2 + 1)
    torch.testing.assert_close(got, stretched, rtol=1e-3, atol=1e-6)
    assert 4000 < float(predictor.sigmas[-1]) < 5000


def test_a_family_without_a_schedule_keeps_the_models(stub: Host, backend: PatcherBackend) -> None:
    job = replace(job_of(stub), family=FAMILIES["hotshot"])
    before = stub.model.predictor.sigmas
    with backend.attach(stub.p, job):
        assert stub.model.predictor.sigmas is before


def test_the_host_manages_the_memory_of_the_modules(stub: Host, backend: PatcherBackend) -> None:
    """In both passes of hires. fix the patcher is a new one; each is loaded with the modules, and forgets them."""
    windows = plan_windows(FRAMES, 4, 2)
    job, loaded = job_of(stub, windows=windows), []
    attributes = set(vars(job.adapter))
    with backend.attach(stub.p, job):
        for _ in ("first pass", "hires"):
            stub.prepare()
            own = stub.sd_model.forge_objects.unet
            backend.before_sampling(stub.p, job)
            unet = stub.sd_model.forge_objects.unet
            assert unet is not own
            assert own.extra_model_patchers_during_sampling == []
            (patcher,) = unet.extra_model_patchers_during_sampling
            assert set(patcher.model.parameters()) == set(job.adapter.parameters())
            if modifier := unet.model_options.get("memory_peak_estimation_modifier"):
                assert modifier([2 * FRAMES, 4, 8, 8]) == 2 * 4  # of a window, with and without the negative prompt
            stub.load()
            loaded.append(patcher)
            assert [one.model for one in stub.memory.current_loaded_models] == [patcher]
    assert [patcher.unloaded for patcher in loaded] == [True, True]
    assert set(vars(job.adapter)) == attributes  # a host's notes are on what holds it


def test_modules_have_the_type_that_the_unet_computes_in(stub: Host, backend: PatcherBackend) -> None:
    model, job = stub.model, job_of(stub)
    model.storage_dtype = torch.float8_e4m3fn
    model.manual_cast_dtype = model.computation_dtype = torch.bfloat16
    with backend.attach(stub.p, job):
        assert {value.dtype for value in job.adapter.parameters()} == {torch.bfloat16}


def test_long_clips_stop_between_windows(stub: Host, backend: PatcherBackend) -> None:
    job = job_of(stub, windows=plan_windows(FRAMES, 2, 0))
    stub.unet.register_forward_hook(lambda *_: setattr(stub.state, "interrupted", True))
    stub.unet.out[2].register_forward_hook(lambda *_: setattr(stub.state, "interrupted", True))
    stub.unet.seen.clear()
    with pytest.raises(InterruptedException), backend.attach(stub.p, job):
        call(stub, inputs(1))
    assert len(stub.unet.seen) == 1


def test_a_batch_that_is_no_clip_is_refused(stub: Host, backend: PatcherBackend) -> None:
    given, said = inputs(2, frames=4), "the UNet got 8 images at once, which are no clips of 6 frames"
    with pytest.raises(UserError, match=said), backend.attach(stub.p, job_of(stub)):
        call(stub, given)
    given = inputs(2)
    given["transformer_options"]["cond_or_uncond"] = [0]  # one conditioning, in two tiles
    with pytest.raises(UserError, match="no clips of 6 frames"), backend.attach(stub.p, job_of(stub)):
        call(stub, given)


def test_modules_that_do_not_fit_are_refused_with_their_file(stub: Host, backend: PatcherBackend) -> None:
    job = job_of(stub)
    layout = replace(job.adapter.layout, down=((64,), (64,)))
    before, wrong = state_of(stub), replace(job, adapter=MotionAdapter(layout))
    said = r"^mm\.safetensors: these motion modules do not fit this UNet"
    with pytest.raises(UserError, match=said), backend.attach(stub.p, wrong):
        pass
    assert torch.equal(state_of(stub)["out"], before["out"])
    assert not has_hooks(stub.unet)


def test_a_compiled_unet_moves_as_well(stub: Host, backend: PatcherBackend) -> None:
    """Hosts put what torch.compile gave in the place of the UNet."""
    job, given = job_of(stub), inputs(1)
    expected = alone(stub, job, given)
    compiled = nn.Module()
    compiled._orig_mod = stub.unet
    stub.model.diffusion_model = compiled
    with backend.attach(stub.p, job):
        stub.model.diffusion_model = stub.unet
        torch.testing.assert_close(call(stub, given), expected, rtol=1e-5, atol=1e-5)


def test_the_kind_of_the_base_model(stub: Host, backend: PatcherBackend) -> None:
    assert backend.base_of(stub.p) == "sd1"
    stub.sd_model.is_sd2 = True
    assert backend.base_of(stub.p) == "sd2"
    stub.sd_model.is_sdxl = True
    assert backend.base_of(stub.p) == "sdxl"
    stub.model.diffusion_model = nn.Linear(1, 1)  # such as Flux
    assert backend.base_of(stub.p) == "Linear"


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        ({"backend", "modules_forge"}, "neo"),
        ({"ldm_patched", "modules_forge"}, "forge"),
        ({"ldm"}, "a1111"),
    ],
)
def test_the_host_is_known_by_its_modules(monkeypatch: pytest.MonkeyPatch, modules: set[str], name: str) -> None:
    real = importlib.util.find_spec
    known = {"backend", "modules_forge", "ldm_patched", "ldm"}
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda asked, *rest: (
            (SimpleNamespace() if asked in modules else None) if asked in known else real(asked, *rest)
        ),
    )
    assert host_name() == name
    assert choose().name == name

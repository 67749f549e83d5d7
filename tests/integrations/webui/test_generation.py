"""The life of a generation on a stub of A1111: what its UNet and its text encoder see, and that nothing stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from animatediff_webui import generation, host
from animatediff_webui.job import Job, noise_schedule, windows_of
from animatediff_webui.motion_lora import add_motion_loras
from animatediff_webui.settings import Settings
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from support.close import relative
from support.lora_methods import METHODS as METHODS_OF_FILES
from support.lora_methods import pair
from support.tiny_models import UNETS, save_motion, save_motion_lora
from support.webui_stub import Processing, StubHost, encoded
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, attach_ldm, layout_of_ldm
from animatediff.motion.attach import has_hooks
from animatediff.sampling import make_scheduler
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.load import load_lora
from animatediff.weights.motion import save_motion_module

NAME = "mine.safetensors"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubHost:
    """A host with one motion module and one MotionLoRA in its folders."""
    stub = StubHost(tmp_path, monkeypatch)
    monkeypatch.setattr(generation, "loaded", generation.Loaded())
    adapter = moving(stub)
    for name in ("animatediff", "Lora"):
        (stub.models / name).mkdir(parents=True)
    save_motion_module(adapter, stub.models / "animatediff" / NAME, family=FAMILIES["v3"])
    save_motion_lora(stub.models / "Lora" / "pan.safetensors", adapter)
    (stub.models / "Lora" / "broken.safetensors").write_bytes(b"nothing")
    return stub


def moving(stub: StubHost) -> MotionAdapter:
    torch.manual_seed(6)
    adapter = MotionAdapter(layout_of_ldm(stub.unet), FAMILIES["v3"].numerics).eval()
    for name, value in adapter.named_parameters():
        if name.endswith("proj_out.weight"):
            torch.nn.init.normal_(value, std=0.2)
    return adapter.requires_grad_(False)


class Script:
    """What the host calls, as `scripts/animatediff_script.py` answers it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {"enable": True, "model": NAME, "video_length": 4, "format": ["GIF"], **settings}

    def before(self, p: Any) -> None:
        generation.start(p, [self.settings], img2img=False)

    def frame(self, p: Any, image: Any) -> None:
        if (running := generation.of(p)) is not None:
            running.add_frame(image)

    def after(self, p: Any, processed: Any) -> None:
        if (running := generation.of(p)) is not None:
            running.finish(processed)


def state(stub: StubHost) -> tuple[Any, ...]:
    """What a generation may leave behind in the model."""
    return (
        has_hooks(stub.unet), "forward" in vars(stub.unet), stub.sd_model.alphas_cumprod.tolist(),
        stub.sd_model.alphas_cumprod_original.tolist(),
    )  # fmt: skip


def by_hand(stub: StubHost, conds: Tensor, adapter: MotionAdapter, num_frames: int = 4) -> Tensor:
    """The step of the stub's sampling, with motion modules attached by hand."""
    noise = torch.randn(num_frames, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    attachment = attach_ldm(stub.unet, adapter)
    with torch.no_grad(), attachment.frames.during(num_frames):
        out = stub.unet(torch.cat([noise, noise]), torch.full((2 * num_frames,), 500.0), context=conds)
    attachment.detach()
    schedule = noise_schedule(FAMILIES["v3"])
    assert schedule is not None
    return schedule[500] * (out[:num_frames] - out[num_frames:])


def test_a_clip_is_sampled_with_motion_modules_and_the_schedule_of_their_family(stub: StubHost) -> None:
    before = state(stub)
    p = Processing(stub)
    done = p.process(Script())
    conds = torch.stack([encoded("a hill")] * 4 + [encoded("fog")] * 4)
    assert torch.equal(stub.seen[0], conds)
    torch.testing.assert_close(p.latents[0], by_hand(stub, conds, moving(stub)), rtol=1e-5, atol=1e-6)
    assert state(stub) == before
    (image,) = done.images
    assert image.endswith("00000-5.gif")
    assert Path(image).is_file()
    (text,) = done.infotexts
    assert text.startswith('a hill\nSeed: 5, AnimateDiff: "model: mine.safetensors, video_length: 4')
    assert (p.batch_size, p.n_iter, "sample" in vars(p)) == (1, 1, False)
    assert "written: " in done.comments


def test_texts_travel_and_the_whole_prompt_is_kept(stub: StubHost) -> None:
    p = Processing(stub, "a hill\n0: spring\n2: winter\n", negative_prompt="0: fog\n2: rain")
    done = p.process(Script())
    texts = ["a hill, spring", "a hill, winter", "fog", "rain"]
    spring, winter, fog, rain = map(encoded, texts)
    wanted = [spring, (spring + winter) / 2, winter, winter, fog, (fog + rain) / 2, rain, rain]
    torch.testing.assert_close(stub.seen[0], torch.stack(wanted))
    assert done.infotexts[0].startswith("a hill\n0: spring\n2: winter\n")


def test_a_motion_lora_acts_as_one_loaded_here(stub: StubHost) -> None:
    plain, p = Processing(stub), Processing(stub, "a hill <lora:pan:0.1>")
    plain.process(Script())
    p.process(Script())
    assert torch.equal(stub.seen[0], stub.seen[1])  # the text encoder never sees it
    adapter = moving(stub)
    add_motion_loras(adapter, {stub.models / "Lora" / "pan.safetensors": 0.1})
    torch.testing.assert_close(p.latents[0], by_hand(stub, stub.seen[1], adapter), rtol=1e-5, atol=1e-6)
    assert float((p.latents[0] - plain.latents[0]).abs().max()) > 1e-3
    again = Processing(stub)
    again.process(Script())
    assert torch.equal(again.latents[0], plain.latents[0])
    peft = SimpleNamespace(adapter=moving(stub))
    load_lora(stub.models / "Lora" / "pan.safetensors", unet=peft.adapter, scale=0.1)
    torch.testing.assert_close(p.latents[0], by_hand(stub, stub.seen[1], peft.adapter), rtol=1e-4, atol=1e-5)


METHODS = ["pair", "loha", "lokr", "diff", "dora", "dora_on_input", "glora"]


@pytest.mark.parametrize("method", METHODS)
def test_motion_loras_of_any_method_are_added_as_their_formula_says(stub: StubHost, method: str) -> None:
    adapter, path = moving(stub), stub.models / "Lora" / f"{method}.safetensors"
    layers = [name for name, _ in adapter.named_modules() if name.endswith(("attn1.to_q", "ff.net.2"))]
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    state, wanted = {}, dict(before)
    for name in layers:
        layer: Any = adapter.get_submodule(name)
        parts, change = (METHODS_OF_FILES | {"pair": pair})[method](layer.weight)
        strength = 1.0 if method.startswith("dora") else 0.5  # no multiple of its strength
        wanted[f"{name}.weight"] = (layer.weight.double() + strength * change).float()
        if layer.bias is not None and not method.startswith("dora"):
            parts["diff_b"] = torch.randn(layer.bias.shape)
            wanted[f"{name}.bias"] = layer.bias + strength * parts["diff_b"]
        state |= {f"lora_unet_{name.replace('.', '_')}.{part}": value for part, value in parts.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    add_motion_loras(adapter, {path: strength})
    for name, value in adapter.state_dict().items():
        assert relative(value, wanted[name]) <= 1e-5, name
    assert sum(not torch.equal(value, before[name]) for name, value in adapter.state_dict().items()) >= len(layers)


def test_two_doras_act_each_on_the_weights_as_they_were(stub: StubHost) -> None:
    adapter, folder = moving(stub), stub.models / "Lora"
    name = next(name for name, _ in adapter.named_modules() if name.endswith("attn1.to_q"))
    layer: Any = adapter.get_submodule(name)
    total = layer.weight.double().clone()
    for file in ("one", "two"):
        parts, change = METHODS_OF_FILES["dora"](layer.weight)
        total += change
        key = f"lora_unet_{name.replace('.', '_')}"
        save_file({f"{key}.{part}": value for part, value in parts.items()}, folder / f"{file}.safetensors")
    add_motion_loras(adapter, {folder / "one.safetensors": 1.0, folder / "two.safetensors": 1.0})
    assert relative(layer.weight, total.float()) <= 1e-5


def test_a_motion_lora_that_does_not_fit_changes_nothing(stub: StubHost) -> None:
    adapter, path = moving(stub), stub.models / "Lora" / "other.safetensors"
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    wide = MotionAdapter.from_unet(UNet2DConditionModel(**UNETS["sdxl"]), numerics=FAMILIES["v3"].numerics)
    save_motion_lora(path, wide)
    with pytest.raises(UserError, match=r"other\.safetensors.* the LoRA is for another base model"):
        add_motion_loras(adapter, {stub.models / "Lora" / "pan.safetensors": 1.0, path: 1.0})
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())


def test_batch_size_and_count_are_clips_with_the_seeds_that_follow(stub: StubHost) -> None:
    p = Processing(stub, batch_size=2, n_iter=2, is_api=True)
    done = p.process(Script(format=["GIF", "Frame"]))
    assert [len(latents) for latents in p.latents] == [4] * 4
    assert len(done.images) == 4 * 5
    assert [text.splitlines()[1].split(",")[0] for text in done.infotexts[::5]] == [
        f"Seed: {5 + 4 * n}" for n in range(4)
    ]
    assert any("batch size 2 makes as many clips" in comment for comment in p.comments)


def test_the_same_p_may_come_again(stub: StubHost) -> None:
    """As img2img's batch gives it."""
    p = Processing(stub)
    p.process(Script())
    first = p.latents[0]
    p.process(Script())
    assert torch.equal(p.latents[0], first)
    assert (len(p.latents), p.batch_size) == (1, 1)


def test_a_fault_in_the_middle_leaves_the_host_clean(stub: StubHost) -> None:
    before = state(stub)
    stub.fault = RuntimeError("a fault of the host")
    with pytest.raises(RuntimeError, match="a fault of the host"):
        Processing(stub).process(Script())
    assert state(stub) == before
    stub.fault = None
    plain = Processing(stub, batch_size=4)
    plain.process(Script(enable=False))
    assert plain.latents[0].shape == (4, 4, 8, 8)
    assert state(stub) == before


def test_what_is_interrupted_is_not_written_unless_the_host_keeps_it(stub: StubHost) -> None:
    stub.state.interrupted = True
    assert Processing(stub).process(Script()).images == ["the host's own"]
    stub.opts.save_incomplete_images = True
    assert Processing(stub).process(Script()).images[0].endswith(".gif")


@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ({"fps": 0}, {}, "FPS (fps) is a whole number"),
        ({"model": "mime"}, {}, "no motion module 'mime'; did you mean 'mine'? found are mine.safetensors"),
        ({"video_length": 1}, {}, "Number of frames (video_length): a clip has at least 2 frames"),
        ({"video_length": 0, "batch_size": 1}, {}, "Context batch size (batch_size): a clip has at least 2 frames"),
        ({}, {"prompt": "0: a\n9: b"}, "the clip has 4 frames, 0 to 3; move the text, or render 10 frames or more"),
        ({}, {"prompt": "0: a\n9: b"}, "(Number of frames (video_length))"),
        ({}, {"prompt": "a AND b"}, "prompts with AND are not sampled as a clip"),
        ({}, {"refiner_checkpoint": "other"}, "the refiner changes the model in the middle"),
        ({"freeinit_enable": True}, {"enable_hr": True}, "Enable FreeInit (freeinit_enable) is for txt2img without"),
        ({"mask_path": "x"}, {}, "Mask path (mask_path) is not supported"),
        ({"video_path": "x"}, {}, "Video path (video_path): a video is the start of img2img"),
        ({}, {"firstpass_image": "x"}, "one image cannot be upscaled as a clip"),
    ],
)
def test_mistakes_end_the_generation_with_a_message(
    stub: StubHost, settings: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    """Hosts swallow what callbacks raise, so it must come from a method of `p`."""
    before = state(stub)
    with pytest.raises(host.AnimateDiffError) as error:
        Processing(stub, **given).process(Script(**settings))
    assert said in str(error.value)
    assert state(stub) == before


def test_modules_for_another_kind_of_model_are_refused(stub: StubHost) -> None:
    stub.sd_model.is_sd1, stub.sd_model.is_sdxl = False, True
    with pytest.raises(host.AnimateDiffError, match=r"for SD 1\.x base models, but the base model is SDXL"):
        Processing(stub).process(Script())
    stub.sd_model.is_sdxl = False
    with pytest.raises(host.AnimateDiffError, match="the loaded checkpoint is of the kind SimpleNamespace"):
        Processing(stub).process(Script())


def test_a_host_without_motion_modules_hears_where_they_go(stub: StubHost) -> None:
    folder = stub.models / "animatediff"
    (folder / NAME).rename(stub.models / "Lora" / NAME)
    (stub.models / "Lora" / "pan.safetensors").rename(folder / "pan.safetensors")
    with pytest.raises(host.AnimateDiffError) as error:
        Processing(stub).process(Script())
    assert f"Read were {folder}" in str(error.value)
    assert "what lies there is none: pan.safetensors is a MotionLoRA" in str(error.value)
    assert f"Put one into {folder}" in str(error.value)
    with pytest.raises(host.AnimateDiffError, match=r"pan\.safetensors is a MotionLoRA .*, no motion module"):
        Processing(stub).process(Script(model="pan"))
    (folder / "half.ckpt").touch()
    with pytest.raises(
        host.AnimateDiffError, match=r"none: half\.ckpt cannot be read, pan\.safetensors is a MotionLoRA"
    ):
        Processing(stub).process(Script())


def test_the_usual_name_stands_for_the_module_that_is_there(stub: StubHost) -> None:
    p = Processing(stub)
    p.process(Script(model="mm_sd15_v3.safetensors"))
    assert any("so mine.safetensors is used" in comment for comment in p.comments)
    assert "model: mine.safetensors" in p.extra_generation_params["AnimateDiff"]


def test_the_usual_name_stands_for_a_module_that_fits_the_checkpoint(stub: StubHost) -> None:
    folder = stub.models / "animatediff"
    save_motion(folder / "a_wide.safetensors", UNet2DConditionModel(**UNETS["sdxl"]), "sdxl")  # the first by name
    p = Processing(stub)
    p.process(Script(model="mm_sd15_v3.safetensors"))
    assert any("so mine.safetensors is used" in comment for comment in p.comments)
    (folder / NAME).unlink()
    with pytest.raises(host.AnimateDiffError) as error:
        Processing(stub).process(Script(model="mm_sd15_v3.safetensors"))
    assert "no mm_sd15_v3.safetensors, and none of a_wide.safetensors is for SD 1.x; put one" in str(error.value)
    stub.sd_model.is_sd1, stub.sd_model.is_sdxl = False, True
    p = Processing(stub)
    with pytest.raises(host.AnimateDiffError):  # the stub's UNet is no SDXL
        p.process(Script(model="mm_sd15_v3.safetensors"))
    assert any("so a_wide.safetensors is used" in comment for comment in p.comments)


def test_windows_are_planned_as_users_of_the_extension_know_them() -> None:
    def starts(**settings: Any) -> list[tuple[int, ...]]:
        planned = windows_of(Settings.from_api({"batch_size": 4, **settings}), 8, 32)
        return [window.frames for window in planned]

    assert starts(closed_loop="N", overlap=0) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert starts(closed_loop="N") == [(0, 1, 2, 3), (3, 4, 5, 6), (4, 5, 6, 7)]  # -1 is a quarter
    assert starts(closed_loop="R-P")[-1][-1] < 4  # the last window ends behind the seam
    assert len(starts(closed_loop="N", stride=2)) > 3
    assert windows_of(Settings(), 16, 32) == []
    with pytest.raises(UserError, match="32 frames at once, but this motion module knows 24"):
        windows_of(Settings(batch_size=32), 64, 24)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_noise_schedules_are_those_that_the_pipeline_samples_with(family: str) -> None:
    own = noise_schedule(FAMILIES[family])
    betas = FAMILIES[family].betas
    if betas is None:
        assert own is None
        return
    scheduler: Any = make_scheduler("ddim", {"beta_schedule": "scaled_linear"}, betas)
    assert own is not None
    assert torch.equal(own, scheduler.alphas_cumprod)


def test_a_batch_that_is_no_clip_is_refused() -> None:
    job = Job(
        settings=Settings(), base="sd1", num_frames=4, model_path=Path("x"), adapter=None, family=FAMILIES["v3"]  # type: ignore[arg-type]
    )  # fmt: skip
    assert (job.num_clips(4), job.num_clips(8)) == (1, 2)
    for rows in (0, 3, 6):
        with pytest.raises(ValueError, match="is no clip of 4 frames"):
            job.num_clips(rows)

"""Hub ids: from the hub's cache where the models are whole there; the hub is asked by the user alone, and may fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import pytest
from support.commands import run
from support.paths import GOLDEN

from animatediff.cli.main import main
from animatediff.errors import UserError
from animatediff.media.read import read_metadata
from animatediff.render import build_request, load_result
from animatediff.render.prepare import DEFAULT_BASE, complete, default_base
from animatediff.weights.hub import cached_folder, fetch_folder, network

COMMIT = "1234567890abcdef" * 2 + "12345678"
SD, MODULE = GOLDEN / "v2" / "sd", GOLDEN / "v2" / "motion_module.ckpt"
SHORT = ("a fox", "--steps", "1", "--num-frames", "2", "--motion-module", str(MODULE), "--dtype", "float32")


class Asked(Exception):  # noqa: N818 - of the test alone
    """Raised where the network is asked."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an empty cache, and a hub that must not be asked."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    answering(monkeypatch, Asked)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def answering(monkeypatch: pytest.MonkeyPatch, make: Callable[[], BaseException]) -> None:
    """Let the hub, and every socket, answer by an error."""

    def answer(*_: Any, **__: Any) -> Any:
        raise make()

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", answer)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer)
    monkeypatch.setattr("socket.socket.connect", answer)


def fetched_before(place: Path, name: str, source: Path = SD) -> Path:
    """Put a model into the hub's cache."""
    repository = place / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_cached_model_is_found_and_recorded_by_its_id(place: Path) -> None:
    fetched_before(place, "owner/model")
    code, _, err = run(*SHORT, "--model", "owner/model", "--out", "a.png")
    assert code == 0, err
    record = read_metadata("a.png")
    assert record["request"]["model"] == "owner/model"
    assert record["files"]["model"] == f"revision:{COMMIT}" and str(place) not in json.dumps(record)
    code, _, err = run("--from", "a.png", "--out", "b.png")
    assert code == 0 and read_metadata("b.png") == record
    assert load_result("a.png").model == "owner/model"


def test_another_revision_than_the_recorded_one_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = "f" * 40
    files = {"model": f"revision:{COMMIT}", "motion_module": f"revision:{other}"}
    request = {"prompt": "x", "model": "owner/model", "motion_module": "v3_sd15_mm.ckpt"}
    Path("a.json").write_text(json.dumps({"request": request, "files": files}))

    def said() -> list[str]:
        caplog.clear()
        assert load_result("a.json").model == "owner/model"
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert said() == [
        f"a.json: was made with owner/model as of commit {COMMIT}; what the hub has now may be another",
        f"a.json: was made with v3_sd15_mm.ckpt as of commit {other}; what the hub has now may be another",
    ]
    fetched_before(place, "owner/model")
    module = fetched_before(place, "guoyww/animatediff", MODULE.parent)
    shutil.copy(MODULE, module / "v3_sd15_mm.ckpt")
    assert said() == [
        f"a.json: v3_sd15_mm.ckpt is here as of commit {COMMIT}, and it was made with commit {other}; frames may differ"
    ]


def test_a_cached_model_is_not_asked_for_again(place: Path) -> None:
    snapshot = fetched_before(place, "owner/model")
    request = build_request({"prompt": "x", "model": "owner/model", "motion_module": str(MODULE), "download": True})
    assert complete(request).model == str(snapshot)


def test_a_model_under_its_former_id(place: Path) -> None:
    snapshot = fetched_before(place, "runwayml/stable-diffusion-v1-5")
    assert cached_folder("runwayml/stable-diffusion-v1-5") == snapshot
    assert cached_folder("stable-diffusion-v1-5/stable-diffusion-v1-5") is None


def test_the_usual_base_of_the_cache(place: Path) -> None:
    with pytest.raises(UserError, match="no image model is given"):
        default_base(False)
    fetched_before(place, DEFAULT_BASE)
    assert default_base(False) == DEFAULT_BASE


def test_motion_modules_and_loras_of_the_cache(place: Path) -> None:
    module = place / "module"
    module.mkdir()
    shutil.copy(MODULE, module / "diffusion_pytorch_model.safetensors")
    snapshot = fetched_before(place, "owner/module", module)
    completed = complete(build_request({"prompt": "x", "model": str(SD), "motion_module": "owner/module"}))
    assert completed.motion_module == str(snapshot)


@pytest.mark.parametrize("setting", ["motion_module", "loras", "vae", "controlnet", "embeddings", "sparsectrl"])
def test_what_is_not_here_is_one_message(setting: str) -> None:
    more = {"controlnet_video": "x"} if setting == "controlnet" else {}
    more |= {"control_images": ["x"]} if setting == "sparsectrl" else {}
    values = {"prompt": "x", "model": str(SD), "motion_module": str(MODULE), setting: "owner/none", **more}
    with pytest.raises(UserError, match=r"^owner/none: .* not in the hub's local cache; add `download`") as error:
        complete(build_request(values))
    assert "\n" not in str(error.value)


def test_half_a_model_in_the_cache(place: Path) -> None:
    snapshot = fetched_before(place, "owner/model")
    shutil.rmtree(snapshot / "unet")
    code, _, err = run(*SHORT, "--model", "owner/model")
    assert code == 2 and "owner/model: not whole in the hub's local cache (unet" in err
    assert "add --download to fetch what is missing" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["foo/bar--baz", "foo/bar..baz", "a/b.git", "foo/bar-", f"foo/{'x' * 100}"])
@pytest.mark.parametrize("download", [False, True])
def test_names_that_the_hub_does_not_have(name: str, download: bool) -> None:
    code, _, err = run(*SHORT, "--model", name, *(["--download"] if download else []))
    assert code == 2 and "Traceback" not in err and err.count(name) == 1
    assert "the hub has no such names" in err.splitlines()[-1]


def errors() -> list[Callable[[], BaseException]]:
    httpx2 = import_module("httpx2")
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    def answer(kind: Any, status: int) -> Callable[[], BaseException]:
        request = httpx2.Request("GET", "https://huggingface.co/x")
        return lambda: kind("refused", response=httpx2.Response(status, request=request))

    return [
        lambda: OSError("no route to host"),
        lambda: TimeoutError(),
        lambda: OfflineModeIsEnabled("offline mode is enabled"),
        lambda: RuntimeError("of the library"),
        lambda: httpx2.ConnectError("connection refused"),
        lambda: httpx2.ReadTimeout(""),
        lambda: httpx2.InvalidURL("no URL"),
        answer(RepositoryNotFoundError, 404),
        answer(GatedRepoError, 403),
    ]


try:
    ERRORS = errors()
except ImportError:  # hubs of another generation have their errors from another library
    ERRORS = [lambda: OSError("no route to host"), lambda: RuntimeError("of the library")]


@pytest.mark.parametrize("make", ERRORS)
def test_a_hub_that_fails_is_one_message(
    place: Path, make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, make)
    code, _, err = run(*SHORT, "--model", "owner/none", "--download", "--quiet")
    assert code == 2 and err.startswith("animatediff: owner/none: ") and len(err.strip().splitlines()) == 1
    code, _, err = run("a fox", "--model", str(SD), "--motion-module", "v3_sd15_mm.ckpt", "--download", "--quiet")
    assert code == 2 and "could not be fetched from guoyww/animatediff" in err and len(err.strip().splitlines()) == 1
    snapshot = fetched_before(place, "owner/none")
    assert fetch_folder("owner/none", list) == snapshot, "what was fetched before serves"


@pytest.mark.parametrize(
    "words",
    [
        ("animate", *SHORT, "--model", "owner/none"),
        ("animate", "a fox", "--motion-module", "v3_sd15_mm.ckpt"),
        ("convert", "owner/none", "x.safetensors"),
        ("inspect", "owner/none"),
        ("train", "run.yaml"),
    ],
)
def test_no_command_asks_the_hub_unasked(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text("{stage: motion, model: owner/none, data: {kind: sprites}, steps: 1, out: o}")
    monkeypatch.setattr("sys.argv", ["animatediff", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "animatediff: " in capsys.readouterr().err


def test_in_python_a_hub_id_asks_the_hub_but_where_that_is_switched_off() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        fetch_folder("owner/none", list)
    with network(False), pytest.raises(UserError, match="add `download`"):
        fetch_folder("owner/none", list)
    with pytest.raises(UserError, match="leave out `local_files_only`"):
        fetch_folder("owner/none", list, local_files_only=True)

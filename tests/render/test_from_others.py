"""Results and configurations made by others say how a clip is rendered, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file
from support.commands import run
from support.fake_pipeline import FakePipeline, loading
from support.paths import GOLDEN

from animatediff.bundled import bundled_path, motion_module_path, set_path
from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.media import write_video
from animatediff.media.kinds import BadMedia
from animatediff.media.open import open_media
from animatediff.media.read import read_metadata
from animatediff.render import build_request, load_config, load_result, parse_config
from animatediff.render.fingerprint import WHOLE, fingerprint
from animatediff.render.portable import bundled_hash, bundled_name, portable

SHORT: dict[str, Any] = {"prompt": "a fox", "steps": 1, "num_frames": 2}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, beside the folder `private` of the user and the folder `theirs` of a stranger."""
    loading(monkeypatch, lambda *_: FakePipeline())
    for name in ("work", "private", "theirs"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "private" / "photo.png")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("ANIMATEDIFF_FOLDERS", raising=False)
    return tmp_path


def result(folder: Path, form: str = "json", **request: Any) -> str:
    """A result with this request in it."""
    content = {"animatediff": "0.1.0", "request": {**SHORT, **request}}
    path = folder / f"clip.{form}"
    if form == "json":
        path.write_text(json.dumps(content))
    else:
        write_video(np.zeros((2, 16, 16, 3), np.uint8), path, fps=8, metadata=content)
    return str(path)


def configuration(folder: Path, **run: Any) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump([{**SHORT, **run}]))
    return str(path)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- where results go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "form"),
    [
        *(("VICTIM.gif", form) for form in ("json", "mp4", "png", "gif")),
        *((out, "json") for out in ("../private/photo.png", "/tmp/animatediff-x.gif", "new/x.gif", "frames")),
    ],
)
def test_a_result_never_says_where_it_is_written(place: Path, out: str, form: str) -> None:
    Path("VICTIM.gif").write_text("precious")
    file = result(place / "theirs", form, out=out, name="../../evil", download=True)
    before = everything(place)
    code, _, err = run("--from", file)
    assert code == 0 and "--out, --name, --download left out" in err, err
    new = {name for name, content in everything(place).items() if before.get(name) != content}
    assert new == {"work/samples/a-fox.mp4", "work/samples/a-fox.mp4.json"}
    assert not Path("/tmp/animatediff-x.gif").exists()


@pytest.mark.parametrize(
    "out", ["../x.gif", "/tmp/animatediff-x.gif", "~/x.gif", "a/../../x.gif", "..\\x.gif", ".git/x"]
)
def test_a_configuration_writes_nowhere_else(place: Path, out: str) -> None:
    before = everything(place)
    code, _, err = run("--config", configuration(place / "work", out=out))
    assert code == 0 and f"is left out: {'hidden' if '.git' in out else 'a file says where'}" in err
    new = {name for name, content in everything(place).items() if before.get(name) != content}
    assert new and all(name.startswith("work/samples/run-") or name == "work/run.yaml" for name in new)


def test_a_configuration_leads_out_by_no_link(place: Path) -> None:
    Path("link").symlink_to(place / "private")
    (request,) = load_config(configuration(place / "work", out="link/x.gif"))
    assert request.out is None


def test_a_configuration_may_name_a_new_file_here_and_replaces_none(place: Path) -> None:
    file = configuration(place / "work", out="clips/fox.gif")
    assert run("--config", file)[0] == 0 and Path("clips/fox.gif").exists()
    before = Path("clips/fox.gif").read_bytes()
    code, out, err = run("--config", file)
    assert code == 0 and "clips/fox-2.gif" in out and "is there already" in err
    assert Path("clips/fox.gif").read_bytes() == before
    Path("clips/fox-3.gif.json").write_text("notes")
    assert "clips/fox-4.gif" in run("--config", file)[1], "nor files that go beside it"
    assert run("--config", file, "--out", "clips/fox.gif")[0] == 0, "the user may"


def test_a_free_name_replaces_no_file_beside_it(place: Path) -> None:
    Path("samples").mkdir()
    Path("samples/a-fox.mp4.json").write_text("notes")
    code, out, _ = run("--from", result(place / "theirs"))
    assert code == 0 and "a-fox-2.mp4" in out and Path("samples/a-fox.mp4.json").read_text() == "notes"


# -- what is read ------------------------------------------------------------------------------------------------------

OUTSIDE = [
    "{private}/photo.png",
    "../private/photo.png",
    "..\\private\\photo.png",
    "x/../../private/photo.png",
    "~/photo.png",
    "{private}",
    "/no/such/file.png",
]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        *(("image", name) for name in OUTSIDE),
        *((setting, OUTSIDE[1]) for setting in ("keyframes", "control_images", "video", "ip_adapter_image")),
    ],
)
def test_no_file_outside_of_the_users_folders_is_read(
    place: Path, setting: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place / "private"))
    named = name.format(private=place / "private")
    given = {"keyframes": [{"frame": 0, "path": named}], "control_images": [named], "ip_adapter_image": [named]}
    request = {setting: given.get(setting, named)}
    for option, file in (
        ("--from", result(place / "theirs", **request)),
        ("--config", configuration(Path(), **request)),
    ):
        code, _, err = run(option, file, "--quiet")
        assert code == 2 and "none of the folders where a file may name others" in err, err
        assert len(err.strip().splitlines()) == 1 and not Path("samples").exists()


@pytest.mark.parametrize(
    "short",
    [
        {"keyframes": ["0=../private/photo.png"]},
        {"keyframes": {0: "../private/photo.png"}},
        {"image": b"../private/photo.png"},
        {"loras": "../private/photo.png"},
        {"loras": [{"path": b"../private/photo.png"}]},
        {"model": "../private/photo.png"},
        {"lora_model_path": "../private/photo.png"},
        {"init_image": "../private/photo.png"},
        {"controlnet_video": ["../private/photo.png"], "controlnet": "x.safetensors"},
    ],
)
def test_short_forms_and_the_originals_keys_are_looked_at_too(place: Path, short: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="none of the folders"):
        load_config(configuration(place / "work", **short))


def test_links_beside_a_strangers_file_lead_to_no_image(place: Path) -> None:
    (place / "theirs" / "link.png").symlink_to(place / "private" / "photo.png")
    (place / "theirs" / "folder").symlink_to(place / "private")
    for name in ("link.png", "folder/photo.png"):
        with pytest.raises(UserError, match="none of the folders"):
            load_result(result(place / "theirs", image=name))


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_playlists_lead_to_no_video(place: Path, name: str) -> None:
    write_video(np.zeros((2, 16, 16, 3), np.uint8), place / "private" / "own.mp4", fps=8)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place / 'private' / 'own.mp4'}\n#EXT-X-ENDLIST\n"
    (place / "theirs" / name).write_text(playlist)
    for source in (place / "theirs" / name, playlist.encode()):
        with pytest.raises(BadMedia, match=r"is a playlist|is a text file"), open_media(source):
            pass


def test_folders_of_images_of_travel_files(place: Path) -> None:
    block = {"enable": True, "init_img_dir": "../private"}
    Path("a.json").write_text(json.dumps({"prompt_map": {"0": "a fox"}, "img2img_map": block}))
    with pytest.raises(UserError, match="none of the folders"):
        load_config("a.json")


def test_what_the_user_names_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = result(place / "theirs", image="photo.png", image_mode="latents")
    photo = str(place / "private" / "photo.png")
    code, _, err = run("--from", file)
    assert code == 2 and "photo.png: no such file" in err
    assert load_result(file, {"image": photo}).image == photo
    roots = Roots(named=(place / "private",))
    assert load_result(file, roots=roots).image == photo
    assert load_result(result(place / "theirs", image=photo), roots=roots).image == photo
    assert load_config(configuration(Path(), image=photo), roots=roots)[0].image == photo
    assert run("--from", file, "--folder", str(place / "private"), "--out", "a.png")[0] == 0
    monkeypatch.setenv("ANIMATEDIFF_FOLDERS", os.pathsep.join([str(place / "none"), str(place / "private")]))
    assert run("--from", file, "--out", "b.png")[0] == 0
    assert "no such folder" in run("--from", file, "--folder", "none")[2]
    assert f"--folder {file}: is a file, expected a folder" in run("--from", file, "--folder", file)[2]


def test_links_to_models_elsewhere_are_followed(place: Path) -> None:
    save_file({"x": np.zeros(1, np.float32)}, place / "private" / "style.safetensors")
    Path("models/DreamBooth_LoRA").mkdir(parents=True)
    Path("models/DreamBooth_LoRA/style.safetensors").symlink_to(place / "private" / "style.safetensors")
    request = load_result(result(place / "theirs", loras=[{"path": "/elsewhere/style.safetensors", "scale": 0.5}]))
    assert [(ref.path, ref.scale) for ref in request.loras] == [("models/DreamBooth_LoRA/style.safetensors", 0.5)]


# -- what is taken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["lora_model_path", "n_prompt", "W", "inference", "base", "random_seed", "promt"])
def test_a_result_holds_what_results_store_and_nothing_else(place: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"unknown setting '{key}'"):
        load_result(result(place / "theirs", **{key: 1}))


def test_what_a_result_asks_for_is_said_before_it_is_rendered(place: Path) -> None:
    file = result(place / "theirs", prompt="a fox\n  `model` mine\x1b[31m", seed=[3], model="bundled/neon")
    code, _, err = run("--from", file, "--out", "a.png")
    assert code == 0 and err.split("asks for:\n")[1].splitlines()[:3] == [
        "  PROMPT a fox\\n  --model mine\\x1b[31m",
        "  --model bundled/neon",
        "  --steps 1, --num-frames 2, --seed 3",
    ]
    assert "\x1b" not in err


def test_a_device_that_is_not_here_gives_way(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_result(result(place / "theirs", device="cuda:9")).device is None
    assert "was made on cuda:9, which is not here" in caplog.text
    assert load_result(result(place / "theirs", device="cpu")).device == "cpu"


@pytest.mark.parametrize("form", ["yaml", "json", "text"])
def test_no_configuration_asks_the_network(place: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    if form == "text":
        (request,) = parse_config(yaml.safe_dump({**SHORT, "download": True}))
    elif form == "json":
        Path("a.json").write_text(json.dumps({"prompt_map": {"0": "a fox"}, "download": True}))
        (request,) = load_config("a.json")
    else:
        (request,) = load_config(configuration(Path(), download=True))
    assert not request.download and "`download` is left out" in caplog.text
    assert load_config(configuration(Path(), download=True), {"download": True})[0].download, "the user does"


# -- names in records --------------------------------------------------------------------------------------------------


def test_bundled_parts_go_by_their_names_wherever_they_were() -> None:
    there = "/home/user/v/lib/python3.12/site-packages/animatediff/bundled"
    for path, name in {
        str(set_path() / "neon"): "bundled/neon",
        str(motion_module_path()): "bundled",
        str(bundled_path()): "bundled",
        f"{there}/set/PanLeft.safetensors": "bundled/PanLeft",
        f"{there}/motion_module.safetensors": "bundled",
        "C:\\Users\\me\\animatediff\\bundled\\set\\paper.safetensors": "bundled/paper",
        "bundled/neon": "bundled/neon",
        f"{there}/set/unknown": None,
        f"{there}/set/neon/unet": None,
        "/home/user/bundled/set/neon": None,
        "a.png": None,
    }.items():
        assert bundled_name(path) == name, path


def test_older_results_of_another_installation(place: Path) -> None:
    there = "/home/user/animatediff/bundled"
    request = {
        "model": f"{there}/set/neon",
        "motion_module": f"{there}/motion_module.safetensors",
        "motion_loras": [{"path": f"{there}/set/PanLeft.safetensors"}],
    }
    code, _, err = run("--from", result(place / "theirs", **request), "--out", "a.apng")
    assert code == 0 and f"bundled/neon (recorded as {there}/set/neon)" in err
    stored = read_metadata("a.apng")["request"]
    assert (stored["model"], stored["motion_module"]) == ("bundled/neon", "bundled")
    assert stored["motion_loras"] == [{"path": "bundled/PanLeft"}]
    assert str(set_path()) not in Path("a.apng.json").read_text()
    assert run("--from", "a.apng", "--out", "b.apng")[0] == 0
    assert Path("a.apng.json").read_bytes() == Path("b.apng.json").read_bytes()


def test_records_tell_no_folders_and_know_files_again(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo = place / "private" / "photo.png"
    Path("in").mkdir()
    Path("in/own.png").write_bytes(photo.read_bytes())
    ends = ("--last-image", str(Path("in/own.png").absolute()), "--image-mode", "latents")
    code, _, err = run("a fox", "--image", str(photo), *ends, "--num-frames", "4", "--out", "a.apng")
    assert code == 0, err
    text = Path("a.apng.json").read_text()
    stored = json.loads(text)
    assert (stored["request"]["image"], stored["request"]["last_image"]) == ("photo.png", "in/own.png")
    assert str(place) not in text and str(place).encode() not in Path("a.apng").read_bytes()
    hashes = {"model": bundled_hash("bundled"), "image": fingerprint(photo), "last_image": fingerprint(photo)}
    assert stored["files"] == hashes
    Image.new("RGB", (8, 8)).save("photo.png")
    caplog.clear()
    load_result("a.apng")
    assert "photo.png is another file than the one it was made with (hash sha256:" in caplog.text
    caplog.clear()
    again = load_result("a.apng", roots=Roots(named=(place / "private",)))
    assert again.image == str(photo) and "another file" not in caplog.text, "of two, the one with its hash"


def test_a_bundled_part_of_another_version_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not its files, which lie elsewhere on every machine, but what ships under its name now."""
    lora = {"path": str(set_path() / "ZoomIn.safetensors")}
    given = {"model": "bundled/neon", "motion_module": str(motion_module_path()), "motion_loras": [lora]}
    stored, hashes = portable(given)
    assert hashes["motion_module"] == bundled_hash("bundled") and len(set(hashes.values())) == 3
    Path("a.json").write_text(json.dumps({"request": {**SHORT, **stored}, "files": hashes}))
    load_result("a.json")
    assert "another version" not in caplog.text
    earlier = {**hashes, "motion_loras.0": "sha256:0123456789abcdef"}
    Path("a.json").write_text(json.dumps({"request": {**SHORT, **stored}, "files": earlier}))
    load_result("a.json")
    told = [record.getMessage() for record in caplog.records if "another version" in record.getMessage()]
    assert len(told) == 1 and "a.json: bundled/ZoomIn ships in another version than the one it was made with" in told[0]


def test_the_folder_of_a_run_tells_no_folders(place: Path) -> None:
    photo = str(place / "private" / "photo.png")
    model = {"model": str(set_path() / "neon"), "motion_module": str(motion_module_path())}
    file = configuration(place / "work", image=photo, image_mode="latents", **model)
    assert run("--config", file, "--folder", str(place / "private"))[0] == 0
    written = [path for path in Path("samples").rglob("*") if path.suffix in (".yaml", ".json", ".gif")]
    assert len(written) == 4 and not [path for path in written if str(place).encode() in path.read_bytes()]
    (config,) = Path("samples").rglob("config.yaml")
    (request,) = load_config(config, roots=Roots(named=(place / "private",)))
    assert (request.model, request.motion_module, request.image) == ("bundled/neon", "bundled", photo)


def test_models_of_another_place_are_recorded_below_models(place: Path) -> None:
    served = place / "served"
    (served / "Motion_Module").mkdir(parents=True)
    (served / "Motion_Module" / "mm.safetensors").write_bytes(b"x")
    roots = Roots(models=(served,))
    stored, hashes = portable({"motion_module": str(served / "Motion_Module" / "mm.safetensors")}, roots)
    assert stored == {"motion_module": "models/Motion_Module/mm.safetensors"} and hashes["motion_module"]
    path = place / "theirs" / "a.json"
    path.write_text(json.dumps({"request": {**SHORT, **stored}, "files": hashes}))
    assert load_result(path, roots=roots).motion_module == str(served / "Motion_Module" / "mm.safetensors")


def test_a_working_directory_above_the_home_folder_is_not_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "private" / "me"))
    monkeypatch.chdir(place)
    assert portable({"image": str(place / "private" / "photo.png")})[0] == {"image": "photo.png"}


def test_hashes_are_cheap_and_tell_files_apart(place: Path) -> None:
    import hashlib

    photo = place / "private" / "photo.png"
    assert fingerprint(photo) == f"sha256:{hashlib.sha256(photo.read_bytes()).hexdigest()[:16]}"
    big = place / "big"
    with open(big, "wb") as file:  # sparse: it takes no disk
        file.truncate(WHOLE + 5)
    empty = fingerprint(big)
    assert empty is not None and empty.startswith("pieces:")
    for at in (0, (WHOLE + 5 - (1 << 20)) // 15 * 7 + 100, WHOLE + 4):
        with open(big, "r+b") as file:
            file.seek(at)
            file.write(b"x")
        os.utime(big, ns=(at, at))
        assert fingerprint(big) != empty
        empty = fingerprint(big)
    folder = fingerprint(GOLDEN / "v1" / "sd")
    assert folder is not None and folder.startswith("folder:") and folder == fingerprint(GOLDEN / "v1" / "sd")
    assert fingerprint(place / "private") != fingerprint(place / "theirs") != fingerprint(place / "none")
    os.mkfifo(place / "pipe")
    assert fingerprint(place / "pipe") is None


def test_requests_in_python_are_the_users_own(place: Path) -> None:
    photo = str(place / "private" / "photo.png")
    request = build_request({**SHORT, "image": photo, "out": "../x.gif", "download": True})
    assert (request.image, request.out, request.download) == (photo, "../x.gif", True)

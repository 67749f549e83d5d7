"""Files of rows: what each format says, and what is said of a mistake in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from animatediff.batch import Jobs, read_jobs
from animatediff.batch.jobs import fingerprint_of
from animatediff.errors import UserError
from animatediff.limits import limits
from animatediff.render import build_request

FOX = '"a fox, moving ""right"""'
CSV = f"id,prompt,seed,cfg_scale,lora\nfox,{FOX},1,7.5,a.safetensors:0.5|b.safetensors\nboat,a boat,2,,\n"
JSONL = [
    {
        "id": "fox",
        "prompt": 'a fox, moving "right"',
        "seed": 1,
        "cfg_scale": 7.5,
        "loras": [{"path": "a.safetensors", "scale": 0.5}, "b.safetensors"],
    },
    {"id": "boat", "prompt": "a boat", "seed": 2},
]
YAML = f"shared: {{}}\nrows:\n  - {json.dumps(JSONL[0])}\n  - id: boat\n    prompt: a boat\n    seed: 2\n"
NAMED = f"fox: {json.dumps({k: v for k, v in JSONL[0].items() if k != 'id'})}\nboat: {{prompt: a boat, seed: 2}}\n"
FORMATS = {
    "rows.csv": CSV,
    "semicolons.csv": CSV.replace(",", ";").replace("fox;", "fox,").replace("fox,a", "fox;a").replace('fox,"', 'fox;"'),
    "rows.tsv": CSV.replace(",", "\t").replace("a fox\t", "a fox,"),
    "rows.jsonl": "\n".join(map(json.dumps, JSONL)),
    "rows.json": json.dumps(JSONL),
    "rows.yaml": YAML,
    "list.yaml": "\n".join(f"- {json.dumps(row)}" for row in JSONL),
    "named.yaml": NAMED,
    "named_beside_shared.yaml": "shared: {}\nrows:\n" + "".join(f"  {line}\n" for line in NAMED.splitlines()),
    "named_beside_shared.json": json.dumps({"shared": {}, "rows": {"fox": JSONL[0], "boat": JSONL[1]}}),
}


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(jobs: Jobs) -> list[str]:
    return [str(fault) for fault in jobs.faults]


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_ask_for_the_same(name: str, tmp_path: Path) -> None:
    jobs = read_jobs(written(tmp_path, name, FORMATS[name]), {"steps": 3})
    assert faults(jobs) == []
    assert [(job.id, job.target) for job in jobs.jobs] == [("fox", "fox.mp4"), ("boat", "boat.mp4")]
    fox, boat = (job.request for job in jobs.jobs)
    assert fox == build_request(
        {
            "prompt": 'a fox, moving "right"',
            "seed": 1,
            "guidance_scale": 7.5,
            "loras": [{"path": "a.safetensors", "scale": 0.5}, {"path": "b.safetensors"}],
            "steps": 3,
        }
    )
    assert boat == build_request({"prompt": "a boat", "seed": 2, "steps": 3})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_in_the_encodings_of_spreadsheets(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "id,prompt\r\n1,ein Füchslein 狐\r\n".encode(encoding))
    (job,) = read_jobs(path).jobs
    assert (job.id, job.request.prompt) == ("1", ("ein Füchslein 狐",))


def test_a_cell_is_read_as_its_flag(tmp_path: Path) -> None:
    text = (
        "prompt,--prompt-at,Motion Scale,closed_loop,keyframe,negative-prompt\n"
        '"spring|summer","12=summer|24=autumn","0=1.0,15=0.3",yes,"0=a.png|8=b.png",\n'
    )
    (job,) = read_jobs(written(tmp_path, "rows.csv", text)).jobs
    request = job.request
    assert request.prompt == ("spring|summer",), "prompts are texts, whatever stands in them"
    assert request.prompt_travel == ({12: "summer", 24: "autumn"},)
    assert request.motion_scale == {0: 1.0, 15: 0.3}
    assert request.closed_loop is True
    assert [(key.frame, key.path) for key in request.keyframes] == [(0, "a.png"), (8, "b.png")]


def test_another_separator(tmp_path: Path) -> None:
    (job,) = read_jobs(written(tmp_path, "rows.csv", "prompt,prompt_at\na,1=x|y;2=z\n"), separator=";").jobs
    assert job.request.prompt_travel == ({1: "x|y", 2: "z"},)
    for none in ("", " "):
        with pytest.raises(UserError, match="`separator`"):
            read_jobs(tmp_path / "rows.csv", separator=none)


def test_a_row_wins_over_settings_and_these_over_the_file(tmp_path: Path) -> None:
    text = "shared: {steps: 20, seed: 5, height: 64}\nrows:\n- {prompt: a}\n- {prompt: b, steps: 4}\n"
    a, b = read_jobs(written(tmp_path, "rows.yaml", text), {"steps": 9}).jobs
    assert [(job.request.steps, job.request.seed, job.request.height) for job in (a, b)] == [
        (9, (5,), 64),
        (4, (5,), 64),
    ]


def test_a_row_of_several_clips(tmp_path: Path) -> None:
    jobs = read_jobs(written(tmp_path, "rows.csv", "id,prompt,seed,out\nx,a,1|2,\n,b,3|4,sub/b.gif\n")).jobs
    assert [(job.target, job.request.seed) for job in jobs] == [
        ("x-0.mp4", (1,)),
        ("x-1.mp4", (2,)),
        ("sub/b-0.gif", (3,)),
        ("sub/b-1.gif", (4,)),
    ]
    assert len({job.id for job in jobs}) == 4


def test_names_are_stable_where_none_is_given(tmp_path: Path) -> None:
    rows = ["a fox", "a boat", "a fox"]
    names = [job.target for job in read_jobs(written(tmp_path, "a.csv", "prompt\n" + "\n".join(rows))).jobs]
    others = read_jobs(written(tmp_path, "b.csv", "prompt\na snail\n" + "\n".join(rows))).jobs
    assert len(set(names)) == 3 and names[2] == names[0].replace(".mp4", "-2.mp4")
    assert [job.target for job in others[1:]] == names, "a row above does not rename those below"
    assert names[0].startswith("a-fox-")


def test_the_fingerprint_tells_what_is_asked_for(tmp_path: Path) -> None:
    image = written(tmp_path, "a.png", b"1")
    values = {"prompt": "a", "seed": 1, "image": str(image)}
    one = fingerprint_of(build_request(values))
    assert fingerprint_of(build_request({**values, "device": "cpu", "decode_chunk_size": 2})) == one
    assert fingerprint_of(build_request({**values, "steps": 7})) != one
    image.write_bytes(b"2")
    assert fingerprint_of(build_request(values)) != one, "the same name, another file"


BAD_FILES = {
    "empty.csv": ("", "is empty; expected a line of column names"),
    "header.csv": ("id,prompt\n", "holds no rows"),
    "blank.jsonl": ("\n\n", "holds no rows"),
    "empty.yaml": ("", "expected rows, as a list or by their ids"),
    "unknown.csv": ("prompt,stesp\na,1\n", "line 1: column 2: unknown setting 'stesp'; did you mean 'steps'?"),
    "twice.csv": ("prompt,steps,num_inference_steps,Steps\na,1,1,1\n", "two columns give 'steps'"),
    "quote.csv": ('prompt\na\n"b\nc\n', "line 3: is not valid CSV (a quote that is never closed)"),
    "latin.csv": (b"prompt\na\nein F\xfcchslein\n", "is not valid UTF-8"),
    "latin.jsonl": (b'{"prompt": "F\xfcchslein"}\n', "is not valid UTF-8"),
    "beside.yaml": ("rows: [{prompt: a}]\nsteps: 3\n", "line 2: 'steps' stands beside `rows`"),
    "run.yaml": ("prompt: a\nsteps: 3\n", "`animatediff animate --config`"),
    "bad.yaml": ("rows:\n- {prompt: a", "line 2: is not valid YAML"),
    "shared.yaml": ("shared: {stesp: 3}\nrows: [{prompt: a}]\n", "did you mean 'steps'?"),
    "id.yaml": ("shared: {id: 3}\nrows: [{prompt: a}]\n", "'id' names the result of one row"),
    "twice.yaml": ("rows:\n- prompt: a\n  steps: 1\n  steps: 2\n", "line 4: 'steps' is given twice (first in line 3)"),
    "video.csv": (b"\0\0\0 ftypisom\0\0\2\0isomiso2avc1mp41", "is a video (MP4 or MOV); expected rows as text"),
    "sheet.csv": (b"PK\3\4\x14\0\6\0", "is a ZIP archive, as .xlsx and .ods are: save a table as CSV"),
    "image.jsonl": (b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image; expected rows as text"),
    "weights.yaml": (b'\x40\0\0\0\0\0\0\0{"a": 1}', "is a file of weights (safetensors); expected a text file"),
    "page.json": ("<!DOCTYPE html><html>", "is a web page, not the file itself"),
    "rows.txt": ("a fox\n", "is no file of rows by its name; expected one of .yaml"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_as_rows(name: str, tmp_path: Path) -> None:
    text, message = BAD_FILES[name]
    with pytest.raises(UserError) as error:
        read_jobs(written(tmp_path, name, text))
    assert message in str(error.value) and name in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_jobs(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_jobs(tmp_path)


def test_results_with_other_names_than_their_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ids and names become names of files; where signs get lost, that is said once."""
    caplog.set_level(logging.INFO, "animatediff")
    text = "id,prompt,name,out\nmy fox/1,a,,\nplain_2.0,b,,\nx,c,Hi: there,\ny?,d,,own.gif\n"
    jobs = read_jobs(written(tmp_path, "rows.csv", text))
    assert [job.target for job in jobs.jobs] == ["my-fox-1.mp4", "plain_2.0.mp4", "Hi-there.mp4", "own.gif"]
    (said,) = caplog.messages
    assert "my fox/1 -> my-fox-1.mp4, Hi: there -> Hi-there.mp4; results.jsonl lists each id" in said
    many = "id,prompt\n" + "".join(f"a {number},x\n" for number in range(9))
    caplog.clear()
    read_jobs(written(tmp_path, "many.csv", many))
    assert caplog.messages[0].count("->") == 3 and "a-2.mp4, ...; results" in caplog.messages[0]
    caplog.clear()
    read_jobs(written(tmp_path, "good.csv", "id,prompt\nfox,a\n"))
    assert caplog.messages == []


BAD_ROWS = {
    "range.csv": ("id,prompt,Steps\nx,a,0\n", "line 2 (x): column 'Steps': steps='0': expected 1 to 1000"),
    "word.csv": ("prompt,cfg_scale\na,much\n", "line 2: column 'cfg_scale': guidance_scale='much': "),
    "strength.csv": ("prompt,lora\na,x.safetensors:high\n", "line 2: column 'lora': x.safetensors:high: the strength"),
    "travel.csv": ("prompt,prompt_at\na,summer\n", "line 2: column 'prompt_at': expected a frame and a text"),
    "more.csv": ("prompt,steps\na,b,3\n", "line 2: 3 values for 2 columns"),
    "nameless.csv": ("prompt,\na,b\n", "line 2: 'b' stands in column 2, which has no name"),
    "lines.csv": ('prompt,steps\n"a\nb",3\nc,x\n', "line 4: column 'steps': steps='x'"),
    "prompt.csv": ("id,steps\nx,3\n", "line 2 (x): prompt is missing"),
    "both.csv": ("prompt,overlap,window\na,8,4\n", "line 2: column 'overlap': overlap=8 must be less than window=4"),
    "up.csv": ("prompt,out\na,../a.mp4\n", "line 2: column 'out': out='../a.mp4': results of rows go below the folder"),
    "root.csv": ("prompt,out\na,/a.mp4\n", "results of rows go below the folder"),
    "hidden.csv": ("prompt,out\na,b/.a.mp4\n", "names a hidden file"),
    "suffix.csv": ("prompt,out\na,a.mp5\n", "line 2: a.mp5: cannot write '.mp5'; did you mean '.mp4'?"),
    "ids.csv": ("id,prompt\nx,a\nx,b\n", "line 3 (x): the id 'x' is taken by line 2"),
    "files.csv": ("id,prompt\nx/y,a\nX-Y,b\n", "line 3 (X-Y): the result 'X-Y.mp4' is taken by line 2"),
    "key.jsonl": ('{"prompt": "a", "stesp": 1}', "line 1: unknown setting 'stesp'; did you mean 'steps'?"),
    "list.jsonl": ('{"prompt": "a"}\n[1]\n', "line 2: expected one object with settings a line, found [1]"),
    "json.jsonl": ('{"prompt": "a"}\n{"prompt"\n', "line 2: is not valid JSON"),
    "id.jsonl": ('{"prompt": "a", "id": [1]}', "line 1: id=[1]: expected a text or a number"),
    "line.yaml": ("rows:\n- prompt: a\n  num_inference_steps: 0\n", "line 2: line 3: steps=0: expected 1 to 1000"),
    "text.yaml": ("rows:\n- a fox\n", "line 2: expected settings as `key: value`, found 'a fox'"),
    "elsewhere.yaml": ("rows:\n- prompt: a\n  image: /etc/passwd\n", "in none of the folders"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_column(name: str, tmp_path: Path) -> None:
    text, message = BAD_ROWS[name]
    jobs = read_jobs(written(tmp_path, name, text))
    (found,) = faults(jobs)
    assert message in found


def test_a_bad_row_takes_none_along(tmp_path: Path) -> None:
    jobs = read_jobs(written(tmp_path, "rows.csv", "id,prompt,steps\na,a,1\nb,b,0\nc,c,x\nd,d,2\n"))
    assert [job.id for job in jobs.jobs] == ["a", "d"]
    assert [fault.id for fault in jobs.faults] == ["b", "c"]


def test_settings_that_rows_do_not_share(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "prompt\na\n")
    for name in ("id", "out", "name"):
        with pytest.raises(UserError, match=f"`{name}` names the result of one row"):
            read_jobs(path, {name: "x"})
    with pytest.raises(UserError, match=r"unknown format 'mpeg'; .*known are mp4"):
        read_jobs(path, format="mpeg")


def test_a_file_does_not_decide_that_the_network_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, "rows.jsonl", '{"prompt": "a", "download": true}')
    with caplog.at_level(logging.WARNING):
        (job,) = read_jobs(path).jobs
    assert not job.request.download and "`download` is left out" in caplog.text
    assert read_jobs(path, {"download": True}).jobs[0].request.download


def test_the_number_of_clips_is_bounded(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "prompt,seed\n" + "a,1|2|3\n" * 4)
    with limits(max_jobs=12):
        assert len(read_jobs(path).jobs) == 12
    with limits(max_jobs=11), pytest.raises(UserError, match=r"12 clips or more; the limit is 11 clips.*`max_jobs`"):
        read_jobs(path)
    with limits(max_config_bytes=100), pytest.raises(UserError, match="line 2: has 101 characters or more"):
        read_jobs(written(tmp_path, "long.jsonl", '{"prompt": "a"}\n' + " " * 500))

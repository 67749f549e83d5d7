"""Textual inversion in every layout: the right vectors at the right tokens, and files that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import ldm_files
from support.commands import run
from support.paths import GOLDEN

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel
from animatediff.prompts.words import spell_out
from animatediff.weights.addons.embedding_files import read_embedding
from animatediff.weights.addons.embeddings import check_embedding, load_embedding
from animatediff.weights.base.single_file import tokenizers
from animatediff.weights.convert import convert

VECTORS = torch.arange(3 * 64, dtype=torch.float32).view(3, 64) / 100


def one() -> dict:
    encoder = ldm_files.text_encoder(64, layers=1, openclip=False)
    return {"tokenizers": [tokenizers("sd1")["tokenizer"]], "text_encoders": [encoder]}


def files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Layout -> file and the word it names."""
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "fox-style", "step": 10},
        folder / "a.pt",
    )
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)}),
            "name": "old-fox",
        },
        folder / "b.pt",
    )
    save_file({"emb_params": VECTORS}, folder / "badhand.safetensors")
    torch.save({"<cat-toy>": VECTORS[0]}, folder / "learned_embeds.bin")
    save_file({"<cat-toy>": VECTORS[:1]}, folder / "learned_embeds.safetensors")
    return {
        "a1111": (folder / "a.pt", "fox-style"), "a1111 of 2022": (folder / "b.pt", "old-fox"),
        "a1111 safetensors": (folder / "badhand.safetensors", "badhand"),
        "diffusers": (folder / "learned_embeds.bin", "<cat-toy>"),
        "diffusers safetensors": (folder / "learned_embeds.safetensors", "<cat-toy>"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "layout", ["a1111", "a1111 of 2022", "a1111 safetensors", "diffusers", "diffusers safetensors"]
)
@pytest.mark.parametrize("token", [None, "my-word"])
def test_every_layout(layout: str, token: str | None, tmp_path: Path) -> None:
    model = one()
    tokenizer, encoder = model["tokenizers"][0], model["text_encoders"][0]
    before = encoder.get_input_embeddings().weight.detach().clone()
    path, word = files(tmp_path)[layout]
    loaded = load_embedding(path, token=token, **model)
    word = token or word
    count = 1 if "diffusers" in layout else 3
    assert (loaded.token, loaded.num_vectors) == (word, count)
    prompt = " ".join([word, *(f"{word}_{i}" for i in range(1, count))])
    ids = tokenizer(f"a {prompt} cat").input_ids
    assert ids == [49406, 320, *range(49408, 49408 + count), 2368, 49407]
    table = encoder.get_input_embeddings().weight
    assert torch.equal(table[ids[2:-2]], VECTORS[:count])
    assert torch.equal(table[: len(before)], before)
    with torch.inference_mode():
        assert encoder(torch.tensor([ids])).last_hidden_state.isfinite().all()
    with pytest.raises(UserError, match="known already"):
        load_embedding(path, token=word, **model)


def test_sdxl_fills_both_text_encoders(tmp_path: Path) -> None:
    small, large = (
        ldm_files.text_encoder(64, layers=1, openclip=False),
        ldm_files.text_encoder(32, layers=1, openclip=True, projection=True),
    )
    made = tokenizers("sdxl")
    model = {"tokenizers": [made["tokenizer"], made["tokenizer_2"]], "text_encoders": [small, large]}
    path = tmp_path / "fox-xl.safetensors"
    save_file({"clip_l": VECTORS[:2].clone(), "clip_g": VECTORS[:2, :32].clone()}, path)
    assert load_embedding(path, **model).token == "fox-xl"
    for encoder, tokenizer, width in ((small, made["tokenizer"], 64), (large, made["tokenizer_2"], 32)):
        ids = tokenizer.convert_tokens_to_ids(["fox-xl", "fox-xl_1"])
        assert torch.equal(encoder.get_input_embeddings().weight[ids], VECTORS[:2, :width])
    with pytest.raises(UserError, match="for SDXL"):
        load_embedding(path, **one())


@pytest.mark.parametrize(
    ("state", "message"),
    [({"emb_params": (2, 48)}, "another base model"), ({"a": (2, 64), "b": (2, 64)}, "not a textual inversion")],
)
def test_what_does_not_fit_is_named(state: dict, message: str, tmp_path: Path) -> None:
    model = one()
    save_file({key: torch.zeros(shape) for key, shape in state.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_embedding(tmp_path / "x.safetensors", **model)
    assert "x.safetensors" in str(caught.value)
    assert len(model["tokenizers"][0]) == 49408


def ids(model: dict, text: str) -> list[int]:
    """Token ids of a prompt, without start and end."""
    tokenizer = model["tokenizers"][0]
    return tokenizer(spell_out(text, tokenizer)).input_ids[1:-1]


def test_the_stored_name_and_the_file_name_are_words_in_any_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = one()
    torch.save({"string_to_param": {"*": VECTORS}, "name": "Nbdy-Scarlet-2"}, tmp_path / "BadHand_v4.pt")
    with caplog.at_level(logging.INFO):
        loaded = load_embedding(tmp_path / "BadHand_v4.pt", **model)
    assert loaded.words == ("Nbdy-Scarlet-2", "BadHand_v4")
    assert "to use it, write Nbdy-Scarlet-2 or BadHand_v4 in a prompt (3 vectors)" in caplog.text
    table = model["text_encoders"][0].get_input_embeddings().weight
    for word in ("Nbdy-Scarlet-2", "nbdy-scarlet-2", "BadHand_v4", "badhand_v4", "BADHAND_V4", "embedding:badhand_v4"):
        found = ids(model, f"a {word}, cat")
        assert found[0] == 320 and found[-2:] == [267, 2368], word
        assert torch.equal(table[found[1:-2]], VECTORS), word
    # a longer word that begins with it is another one
    save_file({"emb_params": VECTORS[:2] + 1}, tmp_path / "badhand_v4-fix.safetensors")
    load_embedding(tmp_path / "badhand_v4-fix.safetensors", **model)
    found = ids(model, "BadHand_v4-FIX badhand_v4")
    assert torch.equal(table[found], torch.cat([VECTORS[:2] + 1, VECTORS]))
    with pytest.raises(UserError, match="'badhand_v4' is known already"):
        load_embedding(tmp_path / "BadHand_v4.pt", token="badhand_v4", **model)


def test_file_names_that_are_words_already_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = one()
    torch.save({"string_to_param": {"*": VECTORS}, "name": "sks of mine"}, tmp_path / "sksmine.pt")
    assert load_embedding(tmp_path / "sksmine.pt", **model).words == ("sksmine",), "the stored name has spaces"
    torch.save({"string_to_param": {"*": VECTORS}, "name": "my-moonlight"}, tmp_path / "moonlight.pt")
    torch.save({"string_to_param": {"*": VECTORS}, "name": "my-number"}, tmp_path / "2024.pt")
    for name, word in (("moonlight.pt", "my-moonlight"), ("2024.pt", "my-number")):
        assert load_embedding(tmp_path / name, **model).words == (word,)
    assert not caplog.text
    load_embedding(tmp_path / "moonlight.pt", token="moonlight", **model)
    assert "'moonlight' is a word of the text encoder, and stands for this embedding now" in caplog.text


def test_several_words_of_one_file_are_all_loaded(tmp_path: Path) -> None:
    """diffusers and cloneofsimo: a dictionary of words."""
    model = one()
    state = {"<s1>": VECTORS[0], "<s2>": VECTORS[1:]}
    torch.save(state, tmp_path / "learned_embeds.bin")
    loaded = load_embedding(tmp_path / "learned_embeds.bin", **model)
    assert [(one.token, one.num_vectors, one.aliases) for one in loaded.all] == [("<s1>", 1, ()), ("<s2>", 2, ())]
    table = model["text_encoders"][0].get_input_embeddings().weight
    assert torch.equal(table[ids(model, "<s2> <S1>")], VECTORS[[1, 2, 0]])
    with pytest.raises(UserError, match="holds several words \\(<s1>, <s2>\\), which `token` cannot name"):
        load_embedding(tmp_path / "learned_embeds.bin", token="x1", **one())
    # the same of tensors in memory, with a name in place of a file
    assert load_embedding({"string_to_param.*": VECTORS}, name="fox-inside", **model).words == ("fox-inside",)
    assert torch.equal(table_of(model)[ids(model, "fox-inside")], VECTORS)


def table_of(model: dict) -> torch.Tensor:
    return model["text_encoders"][0].get_input_embeddings().weight


@pytest.mark.parametrize("key", ["emb_params", "clip_l", "text_encoders_0"])
def test_keys_of_trainers_are_no_words(key: str, tmp_path: Path) -> None:
    model = one()
    save_file({key: VECTORS}, tmp_path / "sksfox.safetensors")
    assert load_embedding(tmp_path / "sksfox.safetensors", **model).words == ("sksfox",)
    assert torch.equal(table_of(model)[ids(model, "sksfox")], VECTORS)


def test_folders_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "sks-toy"
    folder.mkdir()
    torch.save({"<sks>": VECTORS[0]}, folder / "learned_embeds.bin")
    torch.save({"<sks>": VECTORS[1]}, folder / "learned_embeds-step-500.bin")
    (folder / "token_identifier.txt").write_text("<sks>")
    check_embedding(folder, num_text_encoders=1)
    model = one()
    assert load_embedding(folder, **model).words == ("<sks>", "sks-toy")
    assert torch.equal(table_of(model)[ids(model, "sks-toy <sks>")], VECTORS[[0, 0]])
    (folder / "learned_embeds.bin").rename(folder / "other.bin")
    with pytest.raises(UserError, match=r"name one of them: learned_embeds-step-500.bin, other.bin"):
        check_embedding(folder)
    with pytest.raises(UserError, match="no textual inversion in this folder"):
        check_embedding(tmp_path)


def test_what_is_no_embedding_is_named_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    save_file({"clip_l": VECTORS[:, :8].clone(), "clip_g": VECTORS[:, :9].clone()}, tmp_path / "xl.safetensors")
    lora = {f"lora_unet_x.lora_{part}.weight": VECTORS.clone() for part in ("down", "up")}
    save_file(lora, tmp_path / "l.safetensors")
    for name, message in (
        ("a.png", "an image; A1111 hides embeddings in images"),
        ("xl.safetensors", "an embedding for SDXL .two text encoders., but this model has 1"),
        ("l.safetensors", "LoRA of an image model, not a textual inversion embedding .*give it to `loras`"),
    ):
        with pytest.raises(UserError, match=message):
            check_embedding(tmp_path / name, num_text_encoders=1)


def test_an_embedding_that_no_prompt_uses_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe: Any = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype="float32")
    pipe.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    for word in ("SksFox", "bad-sks"):
        pipe.load_textual_inversion({"emb_params": torch.zeros(1, 32)}, name=word)
    travel = PromptTravel({0: "a cat", 5: "a sksfox"})
    head = PromptTravel({0: "a cat", 5: "a dog"}, head="embedding:SKSFOX")
    for prompt, negative, guidance, unused in (
        ("a cat", None, 7, ["SksFox", "bad-sks"]),
        (travel, "ugly, BAD-SKS", 7, []),
        (travel, "ugly, BAD-SKS", 1, ["bad-sks"]),
        (head, "bad", 7, ["bad-sks"]),
        (["a cat", "(SKSFOX:1.2)"], "bad-sks", 7, []),
    ):
        caplog.clear()
        pipe.job(prompt, negative_prompt=negative, guidance_scale=guidance, num_frames=8)
        said = [record.getMessage() for record in caplog.records]
        found = [text.split(": ")[0] for text in said if "no prompt of this clip has its word" in text]
        assert found == [f"embedding {word}" for word in unused], said
        assert not any("read as plain text" in text for text in said)


def test_the_command_line_says_the_word_and_what_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from animatediff.media import read_video

    monkeypatch.chdir(tmp_path)
    v3 = GOLDEN / "v3"
    torch.save({"string_to_param": {"*": torch.randn(3, 32)}, "name": "nbdy-scarlet"}, "badhand_v4.pt")
    small = ["--model", str(v3 / "sd"), "--motion-module", str(v3 / "motion_module.ckpt"), "--steps", "1"]
    small += ["--num-frames", "2", "--width", "32", "--height", "32", "--seed", "1"]
    frames = {}
    for name, prompt, more in (
        ("plain", "a badhand_v4 cat", []),
        ("file", "a BADHAND_V4 cat", ["--embedding", "badhand_v4.pt"]),
        ("stored", "a nbdy-scarlet cat", ["--embedding", "badhand_v4.pt"]),
        ("unused", "a cat", ["--embedding", "badhand_v4.pt"]),
    ):
        code, _, err = run(prompt, *small, *more, "--out", f"{name}.apng")
        assert code == 0, err
        assert ("write nbdy-scarlet or badhand_v4 in a prompt (3 vectors)" in err) == bool(more)
        assert ("badhand_v4.pt: has no effect: no prompt of this clip has its word" in err) == (name == "unused")
        frames[name] = torch.from_numpy(read_video(f"{name}.apng")[0].copy())
    assert torch.equal(frames["file"], frames["stored"]) and not torch.equal(frames["file"], frames["plain"])


def test_a_bare_tensor_takes_the_name_of_its_file(tmp_path: Path) -> None:
    vectors = torch.arange(768.0).view(1, 768)
    torch.save(vectors, tmp_path / "my-face.pt")
    found = read_embedding(tmp_path / "my-face.pt")
    assert (found.title, [word.name for word in found.words]) == ("my-face", [None])
    assert torch.equal(found.vectors(found.words[0].keys[0]), vectors)


def test_the_word_survives_conversion_and_its_old_number_is_no_surplus(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Textual inversion's own program stored the token's number as a tensor, beside the word as text."""
    source = tmp_path / "a.pt"
    torch.save(
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": VECTORS}, "name": "fox-style"}, source
    )
    for target in (tmp_path / "b.safetensors", tmp_path / "c.pt"):
        convert(source, target)
        source = target
        assert [word.name for word in read_embedding(target).words] == ["fox-style"]
    assert not caplog.text

"""Textual inversion in every layout: the right vectors at the right tokens, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import ldm_files

from animatediff.errors import UserError
from animatediff.weights.addons.embeddings import load_embedding
from animatediff.weights.base.single_file import tokenizers

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

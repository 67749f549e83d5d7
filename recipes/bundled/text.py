"""Step 2: the text encoder, trained to tell object, background and motion from a caption; then frozen.

Trained together with the image model from scratch it loses the direction words, and the model ignores them. CLIP's own
pre-training gives the real text encoder what this step gives the small one: a last token that holds the whole caption.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS, caption, combinations, plain_caption
from recipes.bundled.fit import Schedule, arguments, fit
from recipes.bundled.tokenizer import MAX_LENGTH, load_tokenizer

SEED = 2_000
WIDTH = 128


def new_text_encoder(tokenizer: Any) -> Any:
    """Two layers of width 128."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, projection_dim=WIDTH, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """Captions as (n, 32) token ids, padded as the pipeline pads."""
    return tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt").input_ids


def last_state(hidden: Tensor, ids: Tensor, eos: int) -> Tensor:
    """The state at each caption's end: (n, 32, d) -> (n, d)."""
    return hidden[torch.arange(len(ids), device=ids.device), (ids == eos).int().argmax(1)]


class CaptionClassifier(nn.Module):
    """Tells the three attributes of a caption from its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(words)) for words in (OBJECTS, BACKGROUNDS, MOTIONS))

    def loss(self, state: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the attributes; targets (n, 3)."""
        losses = [functional.cross_entropy(head(state), targets[:, i]) for i, head in enumerate(self.heads)]
        return torch.stack(losses).sum()


def captions(num: int, rng: random.Random) -> tuple[list[str], Tensor]:
    """Captions of random combinations, and their attributes (n, 3); all combinations, since words are not images."""
    every = combinations(held_out=False) + combinations(held_out=True)
    drawn = [rng.choice(every) for _ in range(num)]
    targets = [[OBJECTS.index(o), BACKGROUNDS.index(b), MOTIONS.index(m)] for o, b, m in drawn]
    return [caption(c, rng) for c in drawn], torch.tensor(targets)


def train(args: argparse.Namespace) -> None:
    """Train, write `tokenizer/` and `text_encoder/`, and print the sanity check of words."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = load_tokenizer(args.run / "tokenizer")
    model, classifier = new_text_encoder(tokenizer).to(args.device), CaptionClassifier().to(args.device)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        texts, targets = captions(args.batch, rng)
        ids, targets = token_ids(tokenizer, texts).to(args.device), targets.to(args.device)
        hidden = model(ids).last_hidden_state
        # The mean over the padded caption too: cross-attention looks at all 32 tokens.
        return classifier.loss(last_state(hidden, ids, tokenizer.eos_token_id), targets) + classifier.loss(
            hidden.mean(1), targets
        ), {}

    both = nn.ModuleList([model, classifier])
    optimizer = torch.optim.AdamW(both.parameters(), lr=args.rate, weight_decay=0.01)
    fit(both, optimizer, loss, Schedule(peak=args.rate, steps=args.steps), max_grad_norm=1.0)
    model.eval().save_pretrained(args.run / "text_encoder")
    worst, pair = closest_words(model.cpu(), tokenizer)
    print(f"the closest two words change the last state by {worst:.2f} ({pair[0]} / {pair[1]}); wanted: above 0.5")


@torch.no_grad()
def closest_words(model: Any, tokenizer: Any) -> tuple[float, tuple[str, str]]:
    """The smallest relative change of the last state between two words of one kind."""
    worst = (float("inf"), ("", ""))
    for position, words in enumerate((OBJECTS, BACKGROUNDS, MOTIONS)):
        for pair in itertools.combinations(words, 2):
            base = ["fox", "green", "right"]
            texts = []
            for word in pair:
                base[position] = word
                texts.append(plain_caption((base[0], base[1], base[2])))
            ids = token_ids(tokenizer, texts)
            states = last_state(model(ids).last_hidden_state, ids, tokenizer.eos_token_id)
            states = states - model(token_ids(tokenizer, [""])).last_hidden_state[0, 1]
            change = float((states[0] - states[1]).norm() / states.norm(dim=1).mean())
            worst = min(worst, (change, pair))
    return worst


def load_text(folder: Path) -> tuple[Any, Any]:
    """The trained tokenizer and encoder, frozen."""
    from transformers import CLIPTextModel

    model = CLIPTextModel.from_pretrained(folder / "text_encoder")
    return load_tokenizer(folder / "tokenizer"), model.float().eval().requires_grad_(False)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, steps=1500, batch=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()

"""The words of the sprite world: the bundled model's vocabulary, captions, combinations held out of training."""

from __future__ import annotations

import hashlib
import random

OBJECTS = ("fox", "fish", "car", "duck", "rocket", "boat", "turtle", "snail")
"""Things with a front, all drawn by `draw.py`."""

BACKGROUNDS = ("green", "blue", "red", "yellow", "purple", "grey")
"""Colour words for the background."""

MOTIONS = ("still", "right", "left", "up", "down", "growing", "shrinking", "spinning")
"""What a sprite can do in a clip; a prompt without a motion word means still."""

DIRECTIONS = ("right", "left", "up", "down")
"""The motions that travel."""

MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "still": ("", "", "", "standing still", "not moving", "resting", "still"),
    "right": (
        "moving right",
        "moving to the right",
        "goes right",
        "heading right",
        "{verb} right",
        "{verb} to the right",
    ),
    "left": ("moving left", "moving to the left", "goes left", "heading left", "{verb} left", "{verb} to the left"),
    "up": ("moving up", "moving upwards", "goes up", "heading up", "{verb} up", "{verb} upwards", "rising"),
    "down": (
        "moving down",
        "moving downwards",
        "goes down",
        "heading down",
        "{verb} down",
        "{verb} downwards",
        "falling",
    ),
    "growing": ("growing", "grows", "getting bigger", "getting larger", "becoming bigger"),
    "shrinking": ("shrinking", "shrinks", "getting smaller", "becoming smaller"),
    "spinning": ("spinning", "spins", "turning around", "rotating", "spinning around"),
}
"""How each motion is said; `{verb}` is one of the object's own verbs."""

VERBS: dict[str, tuple[str, ...]] = {
    "fox": ("running", "runs", "walks"),
    "fish": ("swimming", "swims"),
    "car": ("driving", "drives"),
    "duck": ("flying", "flies", "walks"),
    "rocket": ("flying", "flies"),
    "boat": ("sailing", "sails"),
    "turtle": ("walking", "walks", "swims"),
    "snail": ("crawling", "crawls"),
}
"""Verbs for travelling; each works with every direction."""

BACKGROUND_PHRASES = (
    "on a {colour} background",
    "on a {colour} background",
    "on {colour}",
    "in front of a {colour} wall",
    "with a {colour} background",
    "against a {colour} backdrop",
)
"""How a background is said."""

OTHER_NAMES = {"gray": "grey", "violet": "purple", "automobile": "car", "ship": "boat", "tortoise": "turtle"}
"""Second names that captions sometimes use, so that prompts may."""

EXAMPLES = (
    "a fox moving right on a green background",
    "a car drives to the left on a yellow background",
    "a rocket flying up on a blue background",
    "a snail growing on a purple background",
    "a fish spinning on a red background",
    "a boat on a grey background",
)
"""Prompts that show what the model can do."""

Combination = tuple[str, str, str]


def is_held_out(obj: str, background: str, motion: str) -> bool:
    """Whether training never shows this (object, background, motion): about one in eight, picked by a fixed hash."""
    digest = hashlib.sha256(f"{obj}/{background}/{motion}".encode()).digest()
    return digest[0] < 32


def combinations(held_out: bool) -> list[Combination]:
    """All (object, background, motion) that are held out, or all that training uses."""
    return [
        (obj, background, motion)
        for obj in OBJECTS
        for background in BACKGROUNDS
        for motion in MOTIONS
        if is_held_out(obj, background, motion) == held_out
    ]


def caption(combination: Combination, rng: random.Random) -> str:
    """One way of saying a combination, with paraphrases, word orders and second names drawn from `rng`."""
    obj, background, motion = combination
    phrase = rng.choice(MOTION_PHRASES[motion]).format(verb=rng.choice(VERBS[obj]))
    second = {name: other for other, name in OTHER_NAMES.items()}
    if obj in second and rng.random() < 0.05:
        obj = second[obj]
    if background in second and rng.random() < 0.1:
        background = second[background]
    article = "an" if obj[0] in "aeiou" else "a"
    noun = obj if rng.random() < 0.05 else f"{'the' if rng.random() < 0.1 else article} {obj}"
    place = rng.choice(BACKGROUND_PHRASES).format(colour=background)
    order = rng.random()
    if order < 0.08:
        text = f"{place}, {noun} {phrase}"
    elif order < 0.16:
        text = f"{noun} {place} {phrase}"
    elif order < 0.22:
        text = f"{noun}, {phrase}, {background} background" if phrase else f"{noun}, {background} background"
    else:
        text = f"{noun} {phrase} {place}"
    return " ".join(text.split())


def plain_caption(combination: Combination) -> str:
    """The plainest way of saying a combination, as evaluation and examples do."""
    obj, background, motion = combination
    phrase = {"still": "", **{d: f"moving {d}" for d in DIRECTIONS}}.get(motion, motion)
    return " ".join(f"a {obj} {phrase} on a {background} background".split())


def corpus_words() -> list[str]:
    """Every word and punctuation mark that captions are made of, sorted."""
    texts = [p for phrases in MOTION_PHRASES.values() for p in phrases] + list(BACKGROUND_PHRASES)
    texts += [v for verbs in VERBS.values() for v in verbs]
    words = {word for text in texts for word in text.split() if "{" not in word}
    return sorted(
        words | set(OBJECTS) | set(BACKGROUNDS) | set(MOTIONS) | set(OTHER_NAMES) | {"a", "an", "the", ",", "."}
    )

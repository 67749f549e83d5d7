"""Files as an attacker or a bad disk might make them: a sound one, changed at a few places by a seeded generator."""

from __future__ import annotations

import random

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**64 - 1]
TOKENS = [
    b"[" * 200, b"{" * 200, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true", b'"', b"\\", b"\\ud800",
    b"\x1b[31m", b"\x00", b"\xff\xfe", b"0x" + b"f" * 5000, b"1:" * 2000, b"&a ", b"*a ", b"<<: *a\n", b"? ", b"- ",
    b": ", b"!!binary ", b"!!python/object/apply:os.system [echo]", b"/*", b"//", b"#", b",", b"}", b"]",
    b"99999999999999999999", b"-0", b"2020-99-99",
]  # fmt: skip
"""Pieces that texts stumble over."""


def mutated(sound: bytes, chance: random.Random, tokens: list[bytes] = TOKENS) -> bytes:
    """`sound` with one to six changes."""
    data = bytearray(sound)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(8)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = chance.randrange(256)
        elif kind == 2:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) % 256**size
            data[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))
        elif kind == 3:
            del data[place : place + chance.choice((1, 2, 8, 64))]
        elif kind == 4:
            piece = data[place : place + chance.choice((1, 4, 16, 64, 256))]
            data[place:place] = piece * chance.choice((1, 2, 10, 100))
        elif kind == 5:
            data[place:place] = chance.choice(tokens)
        elif kind == 6:
            other = chance.randrange(len(data) + 1)
            data[place : place + 16] = data[other : other + 16]
        elif kind == 7 and chance.random() < 0.3:
            del data[place:]
    return bytes(data)

"""Elements of every dtype, with what it has at its edges; the same for the same seed."""

from __future__ import annotations

import random

from ciuic.objects.dtypes import DTYPE_WIDTHS

FLOATS = {  # bits of the exponent, and of the fraction
    "float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52),
    "complex32": (5, 10), "complex64": (8, 23), "complex128": (11, 52),
    "float8_e4m3fn": (4, 3), "float8_e5m2": (5, 2),
}  # fmt: skip
CONTENTS = ("random", "usual", "edges", "equal", "zeros", "counting", "few")


def elements(dtype: str, content: str, count: int, seed: int) -> bytes:
    """``count`` elements; of complex numbers each part is one."""
    chance = random.Random(f"{dtype} {content} {seed}")
    width = DTYPE_WIDTHS[dtype] // (2 if dtype.startswith("complex") else 1)
    count *= DTYPE_WIDTHS[dtype] // width
    exponent, fraction = FLOATS.get(dtype, (0, 0))
    values = {
        "random": lambda place: chance.getrandbits(8 * width),
        # Of floats around 0.02 the exponents are nearly alike; of integers the upper bytes are zeros.
        "usual": lambda place: usual(chance, exponent, fraction, width),
        "edges": lambda place: chance.choice(edges(exponent, fraction, width)),
        "equal": lambda place: 0x5A3C96F0E1D2B487 % (1 << 8 * width),
        "zeros": lambda place: 0,
        "counting": lambda place: place % (1 << 8 * width),
        "few": lambda place: chance.choice((0, 0, 0, 0, 0, 0, 1, 2, (1 << 8 * width) - 1)),
    }
    return b"".join(values[content](place).to_bytes(width, "little") for place in range(count))


def usual(chance: random.Random, exponent: int, fraction: int, width: int) -> int:
    if not exponent:
        return chance.getrandbits(min(8 * width, 5))
    power = (1 << exponent - 1) - 5 + chance.randrange(3)
    return chance.getrandbits(1) << exponent + fraction | power << fraction | chance.getrandbits(fraction)


def edges(exponent: int, fraction: int, width: int) -> list[int]:
    """NaNs with payloads, quiet and signalling, infinities, zeros of both signs, denormals, the largest and least."""
    if not exponent:
        return [0, 1, (1 << 8 * width) - 1, 1 << 8 * width - 1, (1 << 8 * width - 1) - 1]
    top, sign = ((1 << exponent) - 1) << fraction, 1 << exponent + fraction
    positive = [0, 1, (1 << fraction) - 1, 1 << fraction, top - 1, top, top | 1, top | 1 << fraction - 1, sign - 1]
    return positive + [sign | each for each in positive]

"""Sizes and spans of time as policies write them: "200GiB", "7d"."""

from __future__ import annotations

import re

SIZES = {"": 1, "B": 1, **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", 1)}}
SIZES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)}
AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int | None:
    """Bytes; None for what is no size."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMGTP]?i?B|)", text.strip())
    return round(float(match[1]) * SIZES[match[2]]) if match is not None and match[2] in SIZES else None


def parse_age(text: str) -> int | None:
    """Seconds; None for what is no span of time."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhdw])", text.strip())
    return int(match[1]) * AGES[match[2]] if match is not None else None


def size_text(nbytes: int) -> str:
    """The shortest exact form."""
    units = ((unit, size) for unit, size in sorted(SIZES.items(), key=lambda item: -item[1]) if size > 1)
    return next((f"{nbytes // size}{unit}" for unit, size in units if nbytes % size == 0), str(nbytes))


def age_text(seconds: int) -> str:
    """The shortest exact form."""
    return next(f"{seconds // size}{unit}" for unit, size in reversed(AGES.items()) if seconds % size == 0)

"""Sizes and spans of time as people write them: "200GiB", "7d"."""

from __future__ import annotations

import re

SIZES = {"B": 1, **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", 1)}}
SIZES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)}
"""Bytes."""
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Seconds."""


def parse_size(text: str) -> int | None:
    """Bytes, also without a unit; None for what is no size."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMGTP]?i?B|)", text.strip())
    unit = None if match is None else SIZES.get(match[2] or "B")
    return None if match is None or unit is None else round(float(match[1]) * unit)


def parse_span(text: str) -> int | None:
    """Seconds; None for what is no span of time."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhdw])", text.strip())
    return None if match is None else int(match[1]) * SPANS[match[2]]


def size_text(nbytes: int) -> str:
    """The shortest exact form."""
    units = ((unit, size) for unit, size in sorted(SIZES.items(), key=lambda item: -item[1]) if size > 1)
    return next((f"{nbytes // size}{unit}" for unit, size in units if nbytes % size == 0), str(nbytes))


def span_text(seconds: int) -> str:
    """The shortest exact form."""
    return next(f"{seconds // size}{unit}" for unit, size in reversed(SPANS.items()) if seconds % size == 0)


def seconds_text(seconds: float) -> str:
    """For people: "0.25 s", "61.5 s", "1235 s"."""
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"

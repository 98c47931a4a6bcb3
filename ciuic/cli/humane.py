"""Sizes, ages and numbers as people read them."""

from __future__ import annotations

import math
from datetime import datetime

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_AGES = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def size(count: int) -> str:
    """Bytes with three digits or so: "0 B", "812 B", "1.21 MiB", "340 GiB"."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in _UNITS:
        amount /= 1024
        if amount < 999.5 or unit == _UNITS[-1]:
            break
    return f"{amount:.{0 if amount >= 99.95 else 1 if amount >= 9.995 else 2}f} {unit}"


def age(then: datetime, now: datetime) -> str:
    """ "3 minutes ago", in the one unit that tells most; "in 2 hours" when a clock was set back."""
    seconds = (now - then).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    unit, length = next(pair for pair in _AGES if abs(seconds) >= pair[1])
    count = int(abs(seconds) // length)
    text = f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def seconds(duration: float) -> str:
    """A duration with two digits or so: "0 ms", "0.04 ms", "3.1 ms", "0.24 s", "12 s"."""
    if duration == 0:
        return "0 ms"
    amount, unit = (duration * 1000, "ms") if duration < 0.1 else (duration, "s")
    if amount < 0.01:
        return f"<0.01 {unit}"
    return f"{amount:.{0 if amount >= 9.95 else 1 if amount >= 0.995 else 2}f} {unit}"


def number(value: float) -> str:
    """A metric or a statistic with four significant digits; integers whole, zero as 0."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"


def percent(fraction: float) -> str:
    """A share; never "100 %" or "0 %" for what is only close to it."""
    value = fraction * 100
    if 0 < value < 0.01:
        return "<0.01 %"
    if 99.99 < value < 100:
        return ">99.99 %"
    return f"{value:.{2 if value < 9.995 else 1}f} %"


def share(fraction: float) -> str:
    """A share in whole percents; never "100 %" or "0 %" for what is only close to it."""
    value = fraction * 100
    if 0 < value < 0.5:
        return "<1 %"
    if 99.5 <= value < 100:
        return ">99 %"
    return f"{value:.0f} %"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """ "1 snapshot", "3 snapshots"."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}".replace(",", " ")

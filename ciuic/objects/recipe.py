"""Recipes: how to make a chunk, or a guess of it, from other chunks.

An object of its own, so that bases are found without payloads. A map: ``rule`` (text), ``bases`` (the chunks' ids,
joined) and ``numbers`` (a map: what the rule needs besides).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ciuic.objects.encoding import EncodingError, decode, encode
from ciuic.objects.ids import ID_LENGTH, NO_ID
from ciuic.objects.state_tree import Plain

MOST_BASES = 64
MOST_SKIP = 1 << 26

CAST = "cast"
SECOND_MOMENT = "adamw.second_moment"
WEIGHT = "adamw.weight"

BASES = {CAST: range(1, MOST_BASES + 1), SECOND_MOMENT: range(3, 4), WEIGHT: range(3, 4)}
"""Rule → how many bases it takes."""
NUMBERS = {
    CAST: ("from", "to", "skip"),
    SECOND_MOMENT: ("gain", "keep", "take"),
    WEIGHT: ("decay", "rate", "root", "eps"),
}
"""Rule → the numbers that it takes: ``codec/cast.py`` and ``codec/adamw.py`` say what they mean."""
DOUBLES = {"gain"}
"""Numbers in double precision; every other float is one of single precision exactly."""
CASTS = {("float32", "bfloat16"): 4, ("float32", "float16"): 4, ("float64", "float32"): 8}
"""Casts there are, (from, to) → bytes of an element of the first."""


@dataclass(frozen=True)
class Recipe:
    """``rule``: a name in NUMBERS. ``bases``: ids of chunks in the order of the rule. ``numbers``: by name."""

    rule: str
    bases: tuple[bytes, ...]
    numbers: dict[str, Plain]


def encode_recipe(recipe: Recipe) -> bytes:
    """The canonical bytes. Numbers that the rule does not take are left out; EncodingError where something is wrong."""
    taken = NUMBERS.get(recipe.rule, ())
    numbers = {name: recipe.numbers[name] for name in taken if name in recipe.numbers}
    _check(recipe.rule, recipe.bases, numbers)
    return encode({"rule": recipe.rule, "bases": b"".join(recipe.bases), "numbers": numbers})


def decode_recipe(data: Any) -> Recipe:
    """The recipe of canonical bytes; EncodingError for what ``encode_recipe`` does not write."""
    value = decode(data)
    if not isinstance(value, dict) or value.keys() != {"rule", "bases", "numbers"}:
        raise EncodingError("not a recipe")
    rule, joined, numbers = value["rule"], value["bases"], value["numbers"]
    if not isinstance(rule, str) or not isinstance(joined, bytes) or not isinstance(numbers, dict):
        raise EncodingError("not a recipe")
    if len(joined) % ID_LENGTH:
        raise EncodingError("a recipe's bases are not ids")
    bases = tuple(joined[start : start + ID_LENGTH] for start in range(0, len(joined), ID_LENGTH))
    _check(rule, bases, numbers)
    return Recipe(rule, bases, numbers)


def _check(rule: str, bases: tuple[bytes, ...], numbers: Mapping[str, Any]) -> None:
    if rule not in NUMBERS:
        raise EncodingError(f"unknown rule {rule!r}")
    if len(bases) not in BASES[rule] or any(len(base) != ID_LENGTH or base == NO_ID for base in bases):
        raise EncodingError(f"wrong bases for {rule}")
    if numbers.keys() != set(NUMBERS[rule]):
        raise EncodingError(f"wrong numbers for {rule}")
    if rule == CAST:
        _check_cast(numbers)
    else:
        for name, number in numbers.items():
            if not is_number(number, double=name in DOUBLES):
                raise EncodingError(f"{name} of {rule} is {number!r}")


def _check_cast(numbers: Mapping[str, Any]) -> None:
    between, skip = (numbers["from"], numbers["to"]), numbers["skip"]
    if not all(isinstance(dtype, str) for dtype in between) or between not in CASTS:
        raise EncodingError(f"no cast from {between[0]!r} to {between[1]!r}")
    if type(skip) is not int or not 0 <= skip < MOST_SKIP or skip % CASTS[between]:
        raise EncodingError(f"a cast that skips {skip!r}")


def is_number(number: Any, *, double: bool = False) -> bool:
    """Whether it is a finite float, of single precision unless ``double``."""
    if type(number) is not float or not math.isfinite(number):
        return False
    return double or in_single(number) == number


def in_single(number: float) -> float | None:
    """The nearest float of single precision; None where it is too large."""
    try:
        (single,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        return None
    return float(single)

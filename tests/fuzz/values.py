"""Changes to an input as a value: what is put in place of one part is encoded canonically again, lengths and all.

Bytes that are changed blindly hardly ever get past the decoder, and so not to those who judge what it has decoded.
"""

from __future__ import annotations

import random
from typing import Any

from ciuic.objects.encoding import EncodingError, Tagged, decode, encode

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 23, 24, 255, 256, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64,
    -(1 << 63), 1 << 4000, 0.0, -0.0, 1.5, 1e-45, 1e39, 1e308, float("inf"), float("nan"), "", "a", "\0", "\n",
    "a" * 300, "\x1b[2J", "model", "dict", "leaf", "module", "*", "float32", "quint4x2", b"", b"\0", bytes(32),
    b"\xff" * 33, [], {}, [0], [[]], {"a": 1}, {"": ""}, Tagged("tuple", ()), Tagged("dict", ("a", 1)),
    Tagged("complex", (0.0, 1.0)),
)  # fmt: skip


def change_value(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    """One part of the value becomes another one, a copy of a part of any input, or nothing; no value stays as it is."""
    try:
        value, other = decode(bytes(out)), decode(chance.choice(corpus))
        out[:] = encode(_changed(value, other, chance))
    except EncodingError:
        return


def _changed(value: Any, other: Any, chance: random.Random) -> Any:
    """``value`` with one part changed; each part as likely as its siblings."""
    below = _children(value)
    if not below or chance.random() < 0.2:
        return _new(value, other, chance)
    if chance.random() < 0.15:
        return _rearranged(value, chance)
    place = chance.randrange(len(below))
    below[place] = _changed(below[place], other, chance)
    return _with(value, below)


def _new(value: Any, other: Any, chance: random.Random) -> Any:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(STRANGE)
    if kind == 1:
        return _part(other, chance)
    if type(value) is int:
        return chance.choice((value + 1, value - 1, -value, chance.getrandbits(chance.randrange(1, 70)) * 4))
    if type(value) is bytes:
        try:  # an encoding in another one
            return encode(_changed(decode(value), other, chance)) if value else b"\0"
        except EncodingError:
            at = chance.randrange(len(value) + 1)
            return chance.choice((value[:at], value + value[:at], value[:at] + chance.randbytes(1) + value[at + 1 :]))
    if type(value) is str:
        at = chance.randrange(len(value) + 1)
        return value[:at] + chance.choice(("", "/", ".", "\0", "é", value)) + value[at + chance.randrange(2) :]
    return [value] if kind == 3 else chance.choice(STRANGE)


def _part(value: Any, chance: random.Random) -> Any:
    below = _children(value)
    return value if not below or chance.random() < 0.3 else _part(chance.choice(below), chance)


def _rearranged(value: Any, chance: random.Random) -> Any:
    """An item less, one twice, or in another order."""
    if isinstance(value, dict):
        left = dict(value)
        key = chance.choice(list(left))
        item = left.pop(key)
        if chance.random() < 0.4:
            left[chance.choice((key + "s", key[:-1], "values", *left))] = item
        return left
    below = _children(value)
    place = chance.randrange(len(below))
    if chance.random() < 0.5:
        below.pop(place)
    else:
        below.insert(chance.randrange(len(below) + 1), below[place])
    return _with(value, below)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, Tagged):
        return list(value.arguments)
    return list(value) if isinstance(value, list) else []


def _with(value: Any, below: list[Any]) -> Any:
    if isinstance(value, dict):
        return dict(zip(value, below, strict=True))
    if isinstance(value, Tagged):
        return Tagged(value.name, tuple(below))
    return below

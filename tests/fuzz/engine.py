"""A small fuzzer led by coverage: an input that reaches new lines of ciuic is kept, and changed further.

The same seed, corpus and number of runs give the same inputs. What a target lets escape is made smaller and raised as
a Finding, with the input in it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from values import change_value

import ciuic
from ciuic.objects.encoding import encode

ROOT = str(Path(ciuic.__file__).parent)
LONGEST = 1 << 13
NUMBERS = (0, 1, 2, 7, 8, 15, 16, 23, 24, 31, 32, 63, 64, 127, 128, 255, 256, 4096, 65535, 1 << 26, 1 << 31,
           (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip

TOKENS = (
    *map(encode, (*NUMBERS, *(-1 - number for number in NUMBERS), 1 << 64, 1 << 80)),
    *map(encode, (0.0, -0.0, 1.0, 1e-45, 1e39, float("inf"), float("nan"), None, True, "", "a", b"", [], {}, [0])),
    *(b"\xd8\x1b", b"\t", b"\n", b"-", b"..", b"/", b"@{", b"~9", b"^", b"%2F", b"%00", b"null", b"1e999"),
    *(b'""', b"[" * 99, b"\x1b[2J", b"\0"),
)  # fmt: skip
"""What the formats are made of: canonical encodings, and pieces of the texts."""

Target = Callable[[bytes], object]


class Finding(AssertionError):
    """What escaped from a target, and the input that made it."""

    def __init__(self, name: str, data: bytes, error: BaseException) -> None:
        super().__init__(f"{name}: {type(error).__name__}: {error}\ninput ({len(data)} bytes): {data!r}")
        self.data = data


class Lines:
    """The lines of ciuic that run inside the context, as one set of numbers."""

    def __enter__(self) -> set[tuple[int, int]]:
        self._seen: set[tuple[int, int]] = set()
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self._seen

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        code, add, before = id(frame.f_code), self._seen.add, 0

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "line":
                add((code, before << 16 | frame.f_lineno))
                before = frame.f_lineno
            return line

        return line


def fuzz(
    name: str,
    target: Target,
    corpus: Iterable[bytes],
    *,
    seed: int = 0,
    runs: int | None = None,
    seconds: float | None = None,
) -> list[bytes]:
    """Run a target on inputs made from ``corpus``, ``runs`` times or for ``seconds``; the corpus as it has grown."""
    chance = random.Random(f"{name} {seed}")
    kept = [data[:LONGEST] for data in corpus]
    reached: set[tuple[int, int]] = set()
    for data in kept:
        reached |= _run(name, target, data)
    done, end = 0, None if seconds is None else time.monotonic() + seconds
    while (end is None or time.monotonic() < end) and (runs is None or done < runs):
        done += 1
        data = changed(chance.choice(kept), kept, chance)
        lines = _run(name, target, data)
        if not lines <= reached:
            reached |= lines
            kept.append(data)
    return kept


def _run(name: str, target: Target, data: bytes) -> set[tuple[int, int]]:
    try:
        with Lines() as lines:
            target(data)
    except Exception as error:
        raise Finding(name, _smaller(target, data, type(error)), error) from error
    return lines


def _smaller(target: Target, data: bytes, kind: type[Exception]) -> bytes:
    """As little of the input as fails in the same way."""
    step = max(1, len(data) // 2)
    while step:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + step :]
            try:
                target(shorter)
            except kind:
                data = shorter
                continue
            except Exception:
                pass
            at += step
        step //= 2
    return data


def changed(data: bytes, corpus: list[bytes], chance: random.Random) -> bytes:
    """A few changes, one on top of the other."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        chance.choice(CHANGES)(out, corpus, chance)
    return bytes(out[:LONGEST])


def _place(out: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(out) + 1)


def _length(chance: random.Random) -> int:
    return chance.choice((1, 1, 2, 4, 8, 16, chance.randrange(1, 200)))


def flip(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    if out:
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)


def set_byte(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    if out:
        out[chance.randrange(len(out))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))


def set_number(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    width = chance.choice((1, 2, 4, 8))
    at = _place(out, chance)
    number = chance.choice(NUMBERS) + chance.choice((-1, 0, 0, 1))
    out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, chance.choice(("little", "big")))


def add_to_number(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    if out:
        at = chance.randrange(len(out))
        out[at] = (out[at] + chance.randrange(-9, 10)) % 256


def delete(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    at = _place(out, chance)
    del out[at : at + _length(chance)]


def insert(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    at = _place(out, chance)
    out[at:at] = chance.randbytes(_length(chance))


def put_token(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    """In place of another one, of 1, 2, 3, 5 or 9 bytes, or between two."""
    at = _place(out, chance)
    number = encode(chance.getrandbits(chance.randrange(1, 70)) << chance.choice((0, 0, 2, 9)))
    out[at : at + chance.choice((0, 1, 1, 1, 2, 3, 5, 9))] = chance.choice((number, chance.choice(TOKENS)))


def repeat(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    start, at = _place(out, chance), _place(out, chance)
    out[at:at] = out[start : start + _length(chance)] * chance.choice((1, 1, 2, 30))


def splice(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    other = chance.choice(corpus)
    start, at, length = chance.randrange(len(other) + 1), _place(out, chance), _length(chance)
    replaced = chance.choice((0, length, len(out)))
    out[at : at + replaced] = other[start : start + max(length, replaced)]


def cut(out: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    del out[_place(out, chance) :]


CHANGES = (
    flip, set_byte, set_number, add_to_number, delete, insert, *[put_token] * 2, *[change_value] * 4, repeat, splice,
    cut,
)  # fmt: skip

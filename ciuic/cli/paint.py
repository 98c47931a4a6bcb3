"""Colour, used sparingly, and text that is safe and aligned on a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import IO

_STEERING = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters, but for tabs, ends of lines, and the start of a colour."""
_CODES = {"yellow": "33", "green": "32", "cyan": "36", "red": "31", "magenta": "35", "bold": "1", "dim": "2"}


def wants_color(choice: str, stream: IO[str], environment: Mapping[str, str]) -> bool:
    """``always`` and ``never`` decide; ``auto`` colours a terminal that can, unless NO_COLOR is set."""
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


class Paint:
    """Wraps text in ANSI colours, or leaves it alone."""

    def __init__(self, color: bool) -> None:
        self.color = color

    def __call__(self, text: str, *styles: str) -> str:
        if not self.color or not text:
            return text
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m"


def printable(text: str, keep: str = "") -> str:
    """The text with its control characters spelt out: a stored string must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character in keep or not unicodedata.category(character).startswith("C")
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def tamed(text: str) -> str:
    """Text on its way out without anything that steers a terminal, colours aside: what was not made ``printable``."""
    return _STEERING.sub(lambda match: printable(match[0]), text)


def display_width(text: str) -> int:
    """Columns that printable text takes on a terminal: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Text with spaces up to ``width`` columns; ``right`` aligns it to the right."""
    if text.isascii():
        return text.rjust(width) if right else text.ljust(width)
    space = " " * (width - display_width(text))
    return space + text if right else text + space

"""Texts of strangers, as they may stand in a message."""

from __future__ import annotations


def one_line(text: str, longest: int) -> str:
    """The first line that says something, without what a terminal would obey."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = "".join(each if each.isprintable() else "?" for each in lines[0]) if lines else ""
    return first if len(first) <= longest else first[: longest - 1] + "…"

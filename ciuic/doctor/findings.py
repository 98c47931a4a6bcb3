"""What the doctor says: one finding a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """``text`` says how it is, and ``advice`` what to do about it, both with the names of ``facts`` in braces.

    Facts whose names end in ``bytes`` are sizes, those that end in ``time`` moments: whoever prints them words them.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def ok(subject: str, text: str, **facts: Any) -> Finding:
    return Finding("ok", subject, text, "", facts)


def note(subject: str, text: str, advice: str, **facts: Any) -> Finding:
    return Finding("note", subject, text, advice, facts)


def problem(subject: str, text: str, advice: str, **facts: Any) -> Finding:
    return Finding("problem", subject, text, advice, facts)

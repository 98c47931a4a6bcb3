"""What an attack has: the stranger's folder, everybody else's, and what the victim saw."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_MEMORY_KIB = 2 << 20
UNEXPECTED = 1
OURS = re.compile(r"\x1b\[(?:0|1|2|3[0-9])(?:;[0-9]+)?m")
"""The colours that the command line uses."""
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class World:
    """``repository``: the stranger's. ``outside``: everybody else's. ``scratch``: where the victim works."""

    repository: Path
    outside: Path
    scratch: Path

    def untouched(self) -> dict[str, Any]:
        """Everything outside, down to the times of change."""
        found = {}
        for path in sorted(self.outside.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and status.st_size < 1 << 20 else None
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
        return found


@dataclass
class Outcome:
    """What the victim saw, by command."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    cpu_s: float = 0.0

    def code(self, what: str) -> int:
        return int(self.steps[what]["code"])

    def said(self, what: str) -> str:
        return self.steps[what]["out"] + self.steps[what]["err"]  # type: ignore[no-any-return]

    @property
    def codes(self) -> set[int]:
        return {int(step["code"]) for step in self.steps.values()}


Opens = Callable[..., Outcome]
LIBRARY = ("load", "lazy", "restore", "newest_intact", "commit", "gc", "commit again")
"""Steps that are no commands."""

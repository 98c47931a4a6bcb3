"""How many processes the kernel has killed for want of memory, as far as this one can see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
MACHINE = "the machine"


def kills(root: Path = Path("/")) -> dict[str, int]:
    """What is counted → its count: each control group of this process, and the machine; nothing where none says."""
    counts: dict[str, int] = {}
    for name, path in _counters(root):
        found = COUNT.search(_text(path))
        if found:
            counts.setdefault(name, int(found[1]))
    return counts


def moved(before: dict[str, int], after: dict[str, int], *, machine: bool = True) -> str | None:
    """The first whose count rose, in words; None if none did. ``machine``: whether its count, to which everybody's
    processes add, says anything."""
    for name, count in after.items():
        if count > before.get(name, count) and (machine or name != MACHINE):
            return f"the count of out-of-memory kills of {name} rose from {before[name]} to {count}"
    return None


def _counters(root: Path) -> Iterator[tuple[str, Path]]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        inside = group.lstrip("/")
        if not controllers:
            for base in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                yield f"the control group {group}", root / base / inside / "memory.events"
        elif "memory" in controllers.split(","):
            for place in (inside, ""):  # in a container its own group is mounted as the root
                yield f"the control group {group}", root / "sys/fs/cgroup/memory" / place / "memory.oom_control"
    yield MACHINE, root / "proc/vmstat"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""How much memory this process may still take: the machine's, and what its control groups leave."""

from __future__ import annotations

from pathlib import Path

UNLIMITED = 1 << 60


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be taken without swapping or being killed; None where nothing tells."""
    found = [_machine(proc / "meminfo"), *_control_groups(proc / "self/cgroup", cgroups)]
    known = [number for number in found if number is not None]
    return max(0, min(known)) if known else None


def _machine(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_groups(memberships: Path, root: Path) -> list[int]:
    """What each group of this process, and each above it, has left: version 2 ("0::/path") and 1 ("4:memory:/path")."""
    left = []
    for line in _lines(memberships):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = base / path.lstrip("/")
        # In a container the path may be the host's, and the group stands at the root.
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None and limit < UNLIMITED:
                left.append(limit - used + _cached(folder / "memory.stat", names[2]))
    return left


def _cached(statistics: Path, name: str) -> int:
    """Bytes of file cache that the kernel gives up first."""
    return next((int(line.split()[1]) for line in _lines(statistics) if line.split()[:1] == [name]), 0)


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

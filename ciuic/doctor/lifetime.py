"""What would end the writer process together with the run: then what was staged and is not yet durable is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from ciuic.doctor.findings import Finding, note, ok

INIT = {"systemd", "init", "launchd", "runit", "openrc-init", "s6-svscan"}
REAPERS = {"tini", "dumb-init", "docker-init", "catatonit", "pause"}
LOST = "what was copied and is not yet written"
WAIT = "A run that ends by itself waits for its last snapshot; to be safe, `close()` it before anything else ends."


def look(root: Path, properties: Callable[[str], dict[str, str]] | None = None) -> Iterator[Finding]:
    """``properties``: of a systemd unit."""
    paths = _control_groups(root)
    found = [
        *_container(root, paths),
        *_killed_as_a_group(root, paths),
        *_unit(root, paths, properties or _ask_systemd),
    ]
    if not found:
        found = [ok("lifetime", "the writer outlives a run that is killed: nothing here ends both at once")]
    yield from found


def _control_groups(root: Path) -> list[str]:
    """Paths of the control groups of this process; the unified one first."""
    lines = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
    return [fields[2] for fields in sorted(lines) if len(fields) == 3]


def _container(root: Path, paths: list[str]) -> Iterator[Finding]:
    first = next(iter(_lines(root / "proc/1/comm")), "")
    marks = any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))
    named = any(word in path for path in paths for word in ("docker", "kubepods", "containerd", "libpod", "lxc"))
    if not first or first in INIT or not (marks or named):
        return
    text = "the container ends with its first process, {first}, and the writer with it"
    advice = (
        f"Where that is your run, {LOST} is lost when it is killed. Start it below another one: `docker run --init`."
    )
    if first in REAPERS or first in ("sh", "bash", "sleep"):
        advice = f"{first[0].upper()}{first[1:]} ends when what it started ends, and {LOST} is lost then. {WAIT}"
    yield note("container", text, advice, first=first)


def _killed_as_a_group(root: Path, paths: list[str]) -> Iterator[Finding]:
    for path in paths[:1]:
        for base in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
            group = base / path.lstrip("/")
            for folder in (group, *(each for each in group.parents if each.is_relative_to(base))):
                if _lines(folder / "memory.oom.group")[:1] == ["1"]:
                    yield note(
                        "memory kill",
                        "when memory runs out, the kernel kills all of the control group {group}, the writer included",
                        f"Leave room, or {LOST} is lost, too: see the line on memory.",
                        group="/" + folder.relative_to(base).as_posix().lstrip("."),
                    )
                    return


def _unit(root: Path, paths: list[str], properties: Callable[[str], dict[str, str]]) -> Iterator[Finding]:
    unit = next(
        (part for path in paths for part in reversed(path.split("/")) if part.endswith((".service", ".scope"))), ""
    )
    if any("slurm" in path for path in paths):
        advice = f"Ask for a signal before the end (`--signal`), and `close()` then. {WAIT}"
        yield note("batch job", "the end of the job ends the writer, too", advice)
    elif unit.startswith("session-"):
        settings = [line.replace(" ", "").lower() for line in _lines(root / "etc/systemd/logind.conf")]
        if "killuserprocesses=yes" in settings:
            text = "the end of your login session ends all that you started, the writer included"
            yield note("session", text, "`systemd-run --user --scope`, or `loginctl enable-linger`.")
    elif unit.endswith(".service"):
        said = properties(unit)
        if said.get("KillMode", "control-group") in ("control-group", "mixed"):
            text = "systemd ends every process of {unit} when it stops ({mode}), the writer included"
            advice = (
                f"Have the run `close()` on SIGTERM: the unit waits TimeoutStopSec for it, and {LOST} is lost after."
            )
            yield note("service", text, advice, unit=unit, mode=f"KillMode={said.get('KillMode', 'control-group')}")


def _ask_systemd(unit: str) -> dict[str, str]:
    program = shutil.which("systemctl")
    if program is None:
        return {}
    try:
        done = subprocess.run(
            [program, "show", "--property=KillMode", "--", unit], capture_output=True, text=True, timeout=3, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

"""doctor: a page that is right about this machine, and says what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import ciuic
from ciuic.doctor import disk, examine, lifetime, memory, repository
from ciuic.store.fs import FileSystem
from ciuic.store.store import Store

from .conftest import Run


def found(findings: object) -> dict[str, object]:
    return {each.subject: each for each in findings}  # type: ignore[attr-defined]


def level_of(copy: Path, subject: str) -> str:
    finding = found(examine(Store(str(copy)))).get(subject)
    return "" if finding is None else finding.level  # type: ignore[attr-defined]


def test_a_page(change: Run, copy: Path) -> None:
    """Every line begins with its level; a note or a problem says what to do below; nothing is left behind."""
    result = change("doctor")
    assert result.code == 0
    starts = [line.split()[0] for line in result.lines if not line.startswith(" ")]
    assert set(starts) <= {"ok", "note", "problem"} and len(starts) >= 8
    for subject in ("disk", "file system", "locks", "memory", "packs", "logs", "index", "settings", "verified"):
        assert any(line[9:].startswith(subject) for line in result.lines), subject
    assert all(len(line) <= 100 for line in result.lines)
    assert os.listdir(copy / "tmp") == []
    for number, line in enumerate(result.lines):
        if line.startswith(("note", "problem")):
            assert result.lines[number + 1].startswith(" " * 22), "what to do"


def test_for_programs(change: Run) -> None:
    """A line a finding, with its numbers as they are."""
    records = {record["subject"]: record for record in change("--json", "doctor").records}
    assert records["locks"] == {
        "version": 1, "level": "ok", "subject": "locks", "text": "work here", "advice": "", "facts": {},
    }  # fmt: skip
    facts = records["disk"]["facts"]
    assert facts["free_bytes"] > facts["forecast_bytes"] > 0
    assert records["packs"]["facts"] == {"packs": 8}


@pytest.mark.parametrize(
    ("free", "level", "words"),
    [(100, "problem", "takes up to"), (5000, "note", "room for 2 more"), (10**9, "ok", "takes up to")],
)
def test_room_for_the_next_snapshot(
    copy: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str, words: str
) -> None:
    """By what the recent ones took, the largest of them."""
    real = os.statvfs(copy)
    fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**{**fields, "f_bavail": free, "f_frsize": 1}))
    recent = [SimpleNamespace(added_bytes=number) for number in (1500, 0, 2000)]
    finding = found(disk.look(Store(str(copy)), recent))["disk"]  # type: ignore[arg-type]
    assert finding.level == level and words in finding.text.format(**finding.facts)  # type: ignore[attr-defined]


def test_a_new_repository(tmp_path: Path) -> None:
    """There is nothing to forecast from, and nothing wrong."""
    ciuic.Repo.init(tmp_path / "new")
    findings = found(examine(Store(str(tmp_path / "new"))))
    assert {findings[name].level for name in ("disk", "memory", "verified", "packs", "logs")} == {"ok"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("ext4", "ok", "ext4 at /"), ("nfs4", "problem", "network file system"), ("tmpfs", "note", "in memory"),
        ("overlay", "note", "container's own layer"), ("fuse.mergerfs", "note", "not known"),
    ],
)  # fmt: skip
def test_file_systems(
    change: Run, copy: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str, words: str
) -> None:
    """What is known of each; a problem is exit code 1."""
    monkeypatch.setattr(FileSystem, "mountinfo", lambda self: f"27 1 0:9 / / rw - {kind} there rw\n")
    result = change("doctor")
    (line,) = [line for line in result.lines if line[9:].startswith("file system")]
    assert line.startswith(level) and words in " ".join(result.lines)
    assert result.code == (level == "problem")
    if kind == "nfs4":
        assert "CIUIC_NETWORK_STORAGE=allow" in result.out
        config = copy / "config.toml"
        config.write_text(config.read_text().replace("allow_network = false", "allow_network = true"))
        assert change("doctor").code == 0
        assert "index        not used on a network" in change("doctor").out


def test_locks_that_do_not_lock(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems grant every lock, and some none."""
    store = Store(str(copy))
    monkeypatch.setattr(disk.fcntl, "flock", lambda descriptor, operation: None)
    assert "both get" in found(disk.look(store, []))["locks"].facts["reason"]  # type: ignore[attr-defined]

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(disk.fcntl, "flock", refused)
    assert found(disk.look(store, []))["locks"].level == "problem"  # type: ignore[attr-defined]
    assert os.listdir(copy / "tmp") == []


def host(root: Path, free_kib: int, *, limit: int | None = None) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {free_kib} kB\n")
    group = root / "sys/fs/cgroup/job"
    group.mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/job\n")
    (group / "memory.max").write_text("max" if limit is None else str(limit))
    (group / "memory.current").write_text("0")
    return root


@pytest.mark.parametrize(
    ("free_mib", "limit_mib", "level"),
    [(4096, None, "ok"), (1500, None, "note"), (1000, None, "problem"), (9000, 900, "problem"), (9000, 4096, "ok")],
)
def test_memory(tmp_path: Path, free_mib: int, limit_mib: int | None, level: str) -> None:
    """Room for two copies of 1 GiB beside 256 MiB, by what the machine and the control group leave."""
    root = host(tmp_path, free_mib << 10, limit=None if limit_mib is None else limit_mib << 20)
    newest = SimpleNamespace(raw_bytes={"model": 1 << 29, "optimizer": 1 << 29})
    assert found(memory.look(newest, root))["memory"].level == level  # type: ignore[arg-type,attr-defined]
    assert found(memory.look(None, root))["memory"].level == "ok"  # type: ignore[attr-defined]


def test_damage_and_leftovers(change: Run, copy: Path) -> None:
    """A damaged pack and a damaged log are problems, leftovers are notes, and each line says what to do."""
    for folder in ("tmp", "trash", "quarantine"):
        (copy / folder / "file").write_bytes(bytes(1000))
    assert {level_of(copy, f"{folder}/") for folder in ("tmp", "trash", "quarantine")} == {"note"}
    pack = next((copy / "packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-1])
    log = copy / "refs" / "heads" / "main"
    log.write_bytes(b"x" * 512 + log.read_bytes()[512:])
    result = change("doctor")
    assert result.code == 1
    problems = [line for line in result.lines if line.startswith("problem")]
    assert [line.split()[1] for line in problems] == ["packs", "logs"]
    assert result.out.count("`ciuic repair`") == 2
    assert "1 of 8 packs cannot be read" in result.out


@pytest.mark.parametrize("line", ["chunk_size 1", "[retention]\nkeep-lots = 20"])
def test_settings_that_no_run_begins_with(change: Run, copy: Path, line: str) -> None:
    """Who edits config.toml beside a long run would else hear of it at the next start."""
    (copy / "config.toml").write_text(line)
    result = change("doctor")
    (found,) = (each for each in result.lines if each.startswith("problem"))
    assert found.split()[1] == "settings" and result.code == 1
    assert str(copy) not in found


def test_what_was_read_and_when(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never is a note, and so is long ago."""
    (copy / "index" / "verified").unlink(missing_ok=True)
    assert level_of(copy, "verified") == "note"
    ciuic.Repo(copy).fsck(read_data=True)
    assert level_of(copy, "verified") == "ok"
    monkeypatch.setattr(repository, "last_verified", lambda store: dict.fromkeys(store.present, 10**9))
    assert level_of(copy, "verified") == "note"


def test_the_index(copy: Path) -> None:
    """In use, or not to be written."""
    assert level_of(copy, "index") == "ok"
    shutil.rmtree(copy / "index")
    (copy / "index").write_bytes(b"")
    assert level_of(copy, "index") == "note"


def machine(root: Path, first: str, group: str = "/", *, container: bool = False, kill: bool = False) -> Path:
    for folder in ("proc/1", "proc/self", "etc/systemd", f"sys/fs/cgroup{group}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "proc/1/comm").write_text(first + "\n")
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    (root / f"sys/fs/cgroup{group}/memory.oom.group").write_text("1\n" if kill else "0\n")
    if container:
        (root / ".dockerenv").touch()
    return root


def subjects(root: Path, **properties: str) -> list[str]:
    return [finding.subject for finding in lifetime.look(root, lambda unit: properties)]


def test_what_ends_the_writer(tmp_path: Path) -> None:
    """A container's first process, a group that is killed whole, a unit that is stopped, a session that ends, a job."""
    service = "/system.slice/train.service"
    session = "/user.slice/user-1000.slice/session-3.scope"
    assert subjects(machine(tmp_path / "a", "systemd")) == ["lifetime"]
    assert subjects(machine(tmp_path / "b", "python", container=True)) == ["container"]
    assert subjects(machine(tmp_path / "c", "python", "/kubepods/pod1", kill=True)) == ["container", "memory kill"]
    assert subjects(machine(tmp_path / "d", "systemd", service)) == ["service"]
    assert subjects(machine(tmp_path / "e", "systemd", service), KillMode="process") == ["lifetime"]
    assert subjects(machine(tmp_path / "f", "systemd", session)) == ["lifetime"]
    (tmp_path / "f/etc/systemd/logind.conf").write_text("[Login]\nKillUserProcesses = yes\n")
    assert subjects(tmp_path / "f") == ["session"]
    assert subjects(machine(tmp_path / "g", "systemd", "/system.slice/slurmstepd.scope/job_7")) == ["batch job"]
    assert subjects(tmp_path / "nothing there") == ["lifetime"]
    for name in "abcdefg":
        for finding in lifetime.look(tmp_path / name, lambda unit: {}):
            assert finding.level == ("ok" if finding.subject == "lifetime" else "note")
            assert finding.text.format(**finding.facts) and "{" not in finding.advice

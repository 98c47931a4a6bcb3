"""A repository on a file system that is mounted read-only: reading works, writing says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import clean_environment

MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
READING = {
    "log": ("log",),
    "show": ("show", "baseline"),
    "ls": ("ls", "HEAD:model"),
    "diff": ("diff",),
    "cat": ("cat", "HEAD:model/layers.0.weight"),
    "branch": ("branch",),
    "tag": ("tag",),
    "note": ("note",),
    "reflog": ("reflog",),
    "stats": ("stats",),
    "fsck": ("fsck", "--read-data"),
    "gc on trial": ("gc", "--dry-run"),
    "reset on trial": ("reset", "--dry-run", "HEAD~1"),
}
WRITING = {
    "branch": ("branch", "new"),
    "tag": ("tag", "new"),
    "note": ("note", "HEAD", "text"),
    "checkout": ("checkout", "lr-sweep"),
    "reset": ("reset", "HEAD~1"),
    "prune": ("prune", "HEAD~1"),
    "gc": ("gc", "--expire", "now"),
}


def run_read_only(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace of its own, where ``folder`` is read-only."""
    wrapped = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(folder), *command]
    return subprocess.run(wrapped, capture_output=True, text=True, env=clean_environment())


@pytest.fixture(scope="module")
def _mounting(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("probe")
    if shutil.which("unshare") is None or run_read_only(folder, "test", "!", "-w", str(folder)).returncode:
        pytest.skip("mounting read-only needs user and mount namespaces")


@pytest.mark.usefixtures("_mounting")
@pytest.mark.parametrize("arguments", READING.values(), ids=READING)
def test_reading(history: Path, arguments: tuple[str, ...]) -> None:
    done = run_read_only(history, sys.executable, "-m", "ciuic", "--repo", str(history), *arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("_mounting")
def test_export(history: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    done = run_read_only(history, sys.executable, "-m", "ciuic", "--repo", str(history), "export", "HEAD", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert file.stat().st_size > 92


@pytest.mark.usefixtures("_mounting")
@pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING)
def test_writing(history: Path, arguments: tuple[str, ...]) -> None:
    done = run_read_only(history, sys.executable, "-m", "ciuic", "--repo", str(history), *arguments)
    assert (done.returncode, done.stdout) == (61, "")
    assert done.stderr.startswith("error: ")
    assert "Read-only file system" in done.stderr

"""init, completion, and the wiring of demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import clean_environment, run_here, run_process


def test_init_of_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "exp1"
    result = run_here("init", str(place))
    assert result.code == 0
    assert result.lines[0] == f"Empty repository in {place}"
    assert run_here("--repo", str(place), "log").code == 0


def test_init_without_a_folder_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("--json", "init").record == {"version": 1, "path": str(tmp_path / ".ciuic")}
    assert run_here("log").code == 0


def test_init_of_a_named_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_here("--repo", str(tmp_path / "a"), "init").code == 0
    monkeypatch.setenv("CIUIC_REPO", str(tmp_path / "b"))
    assert run_here("init").code == 0
    assert (tmp_path / "a" / "format").exists()
    assert (tmp_path / "b" / "format").exists()


def test_init_twice(history: Path) -> None:
    result = run_here("init", str(history))
    assert result.code == 12
    assert str(history) in result.err


def test_init_says_what_it_lies_in_and_what_it_hides(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository's own folder, where ciuic finds that one first; and beside `snapshots`, which it goes before."""
    monkeypatch.chdir(copy)
    assert f"It lies inside another one, {copy}" in run_here("init").out
    beside = shutil.move(copy, copy.parent / "snapshots")
    monkeypatch.chdir(copy.parent)
    assert run_here("init").lines[-1] == f"Commands in this folder find it now, and no longer {beside}."


def test_init_of_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run_here("init", str(tmp_path)).code == 10
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = run_here("completion", shell)
    assert result.code == 0
    assert "_CIUIC_COMPLETE" in result.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.out.encode(), check=True)


def complete(folder: Path, *words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {
        "_CIUIC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    result = run_process(cwd=folder, **environment)
    assert result.err == ""
    return [line.partition(",")[2] for line in result.lines]


def test_completion_of_commands(history: Path) -> None:
    assert complete(history, "ciuic", "re") == ["reset", "reflog", "repack", "repair"]


def test_completion_of_revisions(history: Path, tmp_path: Path) -> None:
    assert complete(history, "ciuic", "show", "") == ["HEAD", "lr-sweep", "main", "baseline"]
    assert complete(history, "ciuic", "diff", "main", "b") == ["baseline"]
    assert complete(history, "ciuic", "tag", "-d", "") == ["baseline"]
    assert complete(history, "ciuic", "reset", "--branch", "l") == ["lr-sweep"]
    assert complete(tmp_path, "ciuic", "--repo", str(history), "show", "ma") == ["main"]
    assert complete(tmp_path, "ciuic", "-C", str(history), "show", "ma") == ["main"]


def test_completion_without_a_repository_offers_nothing(tmp_path: Path) -> None:
    assert complete(tmp_path, "ciuic", "--repo", "nowhere", "show", "x") == [""]


def test_the_demo_is_wired(tmp_path: Path) -> None:
    """The demo has tests of its own; here it refuses a folder that is not empty, before any training."""
    (tmp_path / "notes.txt").write_text("mine")
    result = run_here("demo", "--directory", str(tmp_path))
    assert result.code == 90
    assert "notes.txt" in os.listdir(tmp_path)


def test_the_console_script() -> None:
    script = Path(sys.executable).with_name("ciuic")
    if not script.exists():
        pytest.skip("ciuic is not installed")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0
    assert done.stdout.startswith("ciuic ")

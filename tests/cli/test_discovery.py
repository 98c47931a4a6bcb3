"""Which repository a command works on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .conftest import Result, run_here, run_process


def where(result: Result) -> str:
    """The first line of the log: it tells the repositories of these tests apart."""
    assert result.code == 0, result.err
    return result.lines[0].split()[1]


@pytest.fixture
def tip(ids: dict[str, str]) -> str:
    return ids["main:599"][:8]


def test_a_named_folder(history: Path, tip: str) -> None:
    assert where(run_here("--repo", str(history), "log")) == tip


def test_a_named_folder_is_exactly_that_one(history: Path) -> None:
    result = run_here("--repo", str(history / "packs"), "log")
    assert result.code == 11
    assert "ciuic init" in result.err


def test_the_current_folder(history: Path, tip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(history)
    assert where(run_here("log")) == tip


def test_a_folder_inside_the_repository(history: Path, tip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(history / "refs" / "heads")
    assert where(run_here("log")) == tip


def test_a_hidden_folder_here_and_above(copy: Path, tip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(copy, tmp_path / "project" / ".ciuic")
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)
    for folder in (tmp_path / "project", below):
        monkeypatch.chdir(folder)
        assert where(run_here("log")) == tip


def test_beside_the_script(copy: Path, tip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`snapshots`, as the guides call it, is found from the folder of the script; .ciuic goes before it."""
    shutil.copytree(copy, tmp_path / "project" / "snapshots")
    monkeypatch.chdir(tmp_path / "project")
    assert where(run_here("log")) == tip
    assert run_here("init").code == 0
    assert run_here("log").out == "No snapshots yet.\n"


def test_as_if_started_elsewhere(history: Path, tip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert where(run_here("-C", str(history), "log")) == tip
    assert Path.cwd() == tmp_path, "a command in this process must not move it"


def test_the_environment_names_it(history: Path, tip: str, tmp_path: Path) -> None:
    assert where(run_process("log", cwd=tmp_path, CIUIC_REPO=str(history))) == tip


def test_flags_go_before_the_environment(
    history: Path, tip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIUIC_REPO", str(tmp_path / "nowhere"))
    assert where(run_here("--repo", str(history), "log")) == tip
    assert where(run_here("-C", str(history), "log")) == tip
    assert run_here("log").code == 11


def test_a_file_named_format_of_somebody_else_is_passed_by(
    copy: Path, tip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(copy, tmp_path / "project" / ".ciuic")
    (tmp_path / "project" / "format").write_text("clang-format\n")
    monkeypatch.chdir(tmp_path / "project")
    assert where(run_here("log")) == tip


def test_no_repository_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(any((parent / name).exists() for name in ("format", ".ciuic", "snapshots")) for parent in tmp_path.parents):
        pytest.skip("the temporary folder lies in a repository")
    monkeypatch.chdir(tmp_path)
    result = run_here("log")
    assert result.code == 11
    assert os.fspath(tmp_path) in result.err
    assert "ciuic init" in result.err


def test_a_folder_to_start_in_that_is_not_there(tmp_path: Path) -> None:
    result = run_here("-C", str(tmp_path / "nowhere"), "log")
    assert result.code == 2
    assert "nowhere" in result.err


def test_a_repository_of_another_name_right_below_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has named it `run`, and types a command beside it or gives the folder around it, reads what to type."""
    monkeypatch.chdir(copy.parent)
    for arguments in (("log",), ("--repo", ".", "log")):
        result = run_here(*arguments)
        assert result.code == 11
        assert f"`ciuic --repo {copy.name} …`" in result.err


def test_a_variable_that_leads_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIUIC_REPO", str(tmp_path / "nowhere"))
    result = run_here("log")
    assert (result.code, "CIUIC_REPO" in result.err) == (11, True)

"""How a process begins and ends: exit codes, pipes, signals, errors, what it imports."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ciuic import errors
from ciuic.cli import failures
from ciuic.cli import progress as progress_bars
from ciuic.cli.root import COMMANDS
from ciuic.cli.session import Session

from .conftest import Run, clean_environment, run_here, run_process

LIGHT = {
    "log": ("log",),
    "log of everything": ("log", "--all"),
    "log as json": ("--json", "log"),
    "show": ("show",),
    "branch": ("branch",),
    "make a branch": ("branch", "new", "HEAD~1"),
    "tag": ("tag",),
    "reflog": ("reflog",),
    "checkout": ("checkout", "lr-sweep"),
    "reset": ("reset", "HEAD~1"),
    "prune": ("prune", "HEAD~1"),
}

LOADED = """
import sys
from ciuic.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "rich", "safetensors"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_a_command_on_metadata_imports_nothing_heavy(copy: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "--repo", str(copy), *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_ciuic_is_ciuic(history: Path) -> None:
    assert run_process("--json", "log", cwd=history).out == run_here("-C", str(history), "--json", "log").out


def test_a_closed_pipe_is_quiet(history: Path) -> None:
    """As in ``ciuic cat --raw … | head -c 1``, with a reader that leaves before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ciuic", "--repo", str(history), "log"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c(history: Path, tmp_path: Path) -> None:
    """A command that waits, here for its reader, ends at once and quietly."""
    import torch

    import ciuic

    repo = ciuic.Repo.init(tmp_path / "large")
    repo.commit(extra={"large": torch.zeros(4 << 20, dtype=torch.uint8)})
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ciuic",
            "--repo",
            str(tmp_path / "large"),
            "cat",
            "--raw",
            "HEAD:extra/large",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\0", "it has begun to write, and cannot go on"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_below_the_output(history: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ciuic", "--repo", str(history), "log"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=clean_environment(),
        )
    assert done.returncode == errors.StorageFull.exit_code
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_usage_errors(run: Run) -> None:
    for arguments in (
        ("lgo",),
        ("log", "--frobnicate"),
        ("log", "-n", "x"),
        ("diff", "a", "b", "c"),
        ("cat",),
    ):
        result = run(*arguments)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert "--help`" in result.err
    assert "Did you mean log?" in run("lgo").err
    assert "Did you mean checkout?" in run("switch").err, "git's word for it"


def test_where_the_options_before_the_command_go_is_said(run: Run) -> None:
    assert "`ciuic -C DIR log …`" in run("log", "-C", "elsewhere").err
    assert "`ciuic --repo DIR bisect run …`" in run("bisect", "run", "--repo", "elsewhere").err
    assert "No such option" in run("log", "-X").err


def test_errors_as_json(run: Run) -> None:
    result = run("--json", "show", "nothing")
    error = json.loads(result.err)
    assert result.code == error["exit_code"] == 21
    assert (error["version"], error["kind"]) == (1, "unknown-revision")
    assert "nothing" in error["message"]
    assert json.loads(run("--json", "frobnicate").err)["kind"] == "usage"
    assert json.loads(run("show", "nothing", "--json").err)["kind"] == "unknown-revision"


def test_tracebacks_are_shown_on_request_only(run: Run) -> None:
    assert "Traceback" not in run("-v", "show", "nothing").err
    assert "Traceback" in run("-v", "-v", "show", "nothing").err


def test_operating_system_errors_have_the_codes_of_ours() -> None:
    import errno

    assert failures.describe(OSError(errno.ENOSPC, "No space left"))[:2] == (62, "storage-full")
    assert failures.describe(OSError(errno.EROFS, "Read-only file system"))[:2] == (61, "read-only-storage")
    assert failures.describe(OSError(errno.EIO, "Input/output error"))[:2] == (60, "storage")


def test_help_lists_every_command() -> None:
    result = run_here("--help")
    assert result.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command}  +\S", result.out, re.MULTILINE)
        assert run_here(command, "--help").code == 0
    assert run_here() == result


def test_version() -> None:
    assert re.fullmatch(r"ciuic \d+\.\d+\.\d+\S*\n", run_here("--version").out)


def test_a_bar_is_drawn_for_a_person_who_waits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr alone; fast work, and stderr in a file, show none."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def checked() -> str:
        terminal.truncate(terminal.seek(0))
        session = Session(quiet=False)
        with session.progress("checking", unit="packs") as progress:
            progress(1, 2)
        return terminal.getvalue()

    assert checked() == ""
    monkeypatch.setattr(progress_bars, "PATIENCE_S", 0)
    assert "checking" in checked()
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    with Session().progress("checking") as progress:
        assert progress is None


def test_color_on_request_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("log",), ("show",), ("diff",), ("ls",), ("branch",)):
        assert "\x1b" not in run(*arguments).out
        assert "\x1b" not in run("--color", "never", *arguments).out
        assert "\x1b[" in run("--color", "always", *arguments).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("log").out
    assert "\x1b[" in run("--color", "always", "log").out, "what is typed goes before the environment"


def test_a_terminal_without_our_characters_shows_them_spelt_out(history: Path) -> None:
    result = run_process("--repo", str(history), "diff", "--limit", "1", PYTHONIOENCODING="ascii")
    assert (result.code, result.err) == (0, "")
    assert "\\u2026 " in result.out and result.out.isascii()


def test_a_stored_text_cannot_steer_the_terminal(run: Run) -> None:
    result = run("show")
    assert "a\\x1b[31mb" in result.out

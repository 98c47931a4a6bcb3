"""Commands under a real supervisor, each in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

OURS = ("CIUIC_REPO", "CIUIC_HEARTBEAT", "CIUIC_SNAPSHOTS", "CIUIC_SNAPSHOT_EVERY", "CIUIC_INTERRUPT")
PATIENCE_S = 120.0

STEPS = """
import os, signal, sys, time
from ciuic.supervised import Supervised
line = Supervised()
line.opened(os.path.abspath("snapshots"))
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
"""A training as its supervisor sees one: without tensors, it starts in a tenth of the time."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Desk:
    """A folder in which commands are typed."""

    folder: Path

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in OURS}

    def ciuic(self, *arguments: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "ciuic", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def script(self, text: str, name: str = "train.py") -> list[str]:
        """The command that runs a script of this text."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return [sys.executable, name]

    def run(self, command: list[str], *options: str) -> Result:
        return self.ciuic("run", "--backoff", "0", *options, "--", *command)

    def start(self, command: list[str], *options: str, **more: Any) -> subprocess.Popen[str]:
        """The supervisor, started and not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", "ciuic", "run", "--backoff", "0", *options, "--", *command],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )

    def newest_run(self) -> dict[str, Any]:
        """What `ciuic runs` says of it, attempts and all."""
        name = self.ciuic("runs", "--json").records[-1]["id"]
        (record,) = self.ciuic("runs", "--json", name).records
        return record


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def until(condition: Any) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


def state(pid: int) -> str:
    """As the kernel has it: R, S, T…; X when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def alive(pid: int) -> bool:
    """Running, and not only unburied."""
    return state(pid) not in ("Z", "X")

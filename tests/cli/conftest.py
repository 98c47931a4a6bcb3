"""A real repository with a history, and two ways to run a command on it: here and in a process of its own.

main      99 - 199 - 299 - 399 - 499 - 599        HEAD -> main, tag baseline at 199
                      \\
lr-sweep                399 - 499

The reflog says that a snapshot was taken every hour, the last one an hour ago.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

LOSSES = {99: math.nan, 199: 2.0, 299: 1.0, 399: 2.5, 499: 1.5, 599: 1.75}
ACCURACIES = {99: 0.1, 199: 0.5, 299: 0.4, 399: 0.9, 499: 0.6, 599: 0.7}
HOUR_NS = 3600 * 10**9


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str
    raw: bytes = b""

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout. NaN and Infinity are not JSON, and refused."""
        return [json.loads(line, parse_constant=_refuse) for line in self.lines]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def run_here(*arguments: str) -> Result:
    """Run a command in this process."""
    from ciuic.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        code = main(arguments)
    finally:
        sys.stdout, sys.stderr = before
    out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    return Result(code, out.decode("utf-8", "replace"), err.decode(), out)


def run_process(*arguments: str, cwd: Path | None = None, **environment: str) -> Result:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ciuic", *arguments],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return Result(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode(), done.stdout)


def clean_environment(**environment: str) -> dict[str, str]:
    """The environment without what changes a command's behaviour."""
    names = ("CIUIC_REPO", "NO_COLOR", "FORCE_COLOR", "_CIUIC_COMPLETE")
    return {**{name: value for name, value in os.environ.items() if name not in names}, **environment}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIUIC_REPO", "NO_COLOR", "FORCE_COLOR", "_CIUIC_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of the docstring. Tests read it; what changes it works on a ``copy``."""
    folder = tmp_path_factory.mktemp("history") / "run"
    with pytest.MonkeyPatch.context() as patch:
        _build(folder, patch)
    return folder


def _build(folder: Path, patch: pytest.MonkeyPatch) -> None:
    import torch

    import ciuic
    from ciuic.store import reflog

    start = time.time_ns()

    def set_clock(hours_ago: int) -> None:
        patch.setattr(reflog, "time", SimpleNamespace(time_ns=lambda: start - hours_ago * HOUR_NS))

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)])})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

    def commit(repo: Any, step: int, lr: float, message: str = "") -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        repo.commit(
            model,
            optimizer,
            step=step,
            epoch=step // 100,
            message=message,
            metrics={"loss": LOSSES[step], "accuracy": ACCURACIES[step]},
            config={"lr": lr, "betas": (0.9, 0.999), "note": "a\x1b[31mb"},
            extra={
                "tokens_seen": step * 1000,
                "name": "first line\nsecond",
                "data": b"\x00\xff",
                "ratio": math.inf,
            },
        )

    set_clock(8)
    repo = ciuic.Repo.init(folder)
    for position, step in enumerate(LOSSES):
        set_clock(6 - position)
        commit(repo, step, 0.001, "after warm-up" if step == 199 else "")
    repo.tag("baseline", at="main~4")
    repo.branch("lr-sweep", at="step:299")
    repo.checkout("lr-sweep", model=model, optimizer=optimizer)
    for step in (399, 499):
        commit(repo, step, 0.0003, "smaller rate")
    repo.switch("main")


@pytest.fixture
def copy(history: Path, tmp_path: Path) -> Path:
    """A repository of one's own to change."""
    return Path(shutil.copytree(history, tmp_path / "run"))


Run = Callable[..., Result]


@pytest.fixture
def run(history: Path) -> Run:
    """Run a command on the shared history, in this process: ``run("log", "-n", "1")``."""
    return lambda *arguments: run_here("--repo", str(history), *arguments)


@pytest.fixture
def change(copy: Path) -> Run:
    """Run a command on a copy of the history, in this process."""
    return lambda *arguments: run_here("--repo", str(copy), *arguments)


@pytest.fixture(scope="session")
def ids(history: Path) -> dict[str, str]:
    """Ids by what the tests call them: "main:499", "lr-sweep:499"."""
    import ciuic

    repo = ciuic.Repo.open(history)
    return {
        f"{branch}:{snapshot.step}": snapshot.id for branch in ("main", "lr-sweep") for snapshot in repo.log(branch)
    }

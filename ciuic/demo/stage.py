"""Where the tour happens: a folder, the commands that are typed in it, and the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ciuic.errors import DemoFailed

BOLD, DIM, GREEN, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"
SHOWN_LINES = 3


@dataclass(frozen=True)
class Stage:
    echo: Callable[[str], None]
    folder: Path
    color: bool

    def heading(self, text: str) -> None:
        self.echo("")
        self.echo(self._styled(text, BOLD))

    def say(self, text: str) -> None:
        self.echo(text)

    def confirm(self, text: str) -> None:
        self.echo(self._styled(f"✓ {text}", GREEN))

    def ciuic(self, *arguments: str) -> None:
        """Type a ciuic command in the run's folder and show all that it answers."""
        self._prompt("ciuic", *arguments)
        color = "always" if self.color else "never"
        command = [sys.executable, "-m", "ciuic", "--color", color, *arguments]
        answer = subprocess.run(
            command,
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for line in answer.stdout.splitlines():
            self.echo(line)
        if answer.returncode != 0:
            raise DemoFailed(
                f"'ciuic {shlex.join(arguments)}' ended with exit code {answer.returncode}. "
                f"Run it by hand to look closer, in {self.folder} ."
            )

    def train(self, folder: Path, *arguments: str, kill_after_step: int | None = None) -> list[str]:
        """Run the training script in ``folder`` to its end, or to SIGKILL right after it printed a step.

        Returns what it printed, of which the screen shows the first and the last lines.
        """
        self._prompt("python", "train.py", *arguments)
        printed: list[str] = []
        with _started([sys.executable, "train.py", *arguments], folder) as process:
            for line in _lines(process):
                printed.append(line)
                if len(printed) <= SHOWN_LINES:
                    self.echo(line)
                if kill_after_step is not None and line.startswith(f"step {kill_after_step:4d} "):
                    process.kill()
        if len(printed) > 2 * SHOWN_LINES:
            self.echo(self._styled("…", DIM))
        for line in printed[max(SHOWN_LINES, len(printed) - SHOWN_LINES) :]:
            self.echo(line)

        expected = 0 if kill_after_step is None else -signal.SIGKILL
        if process.returncode != expected:
            raise DemoFailed(
                f"The training script in {folder} ended with {process.returncode} instead of {expected}. "
                "Run 'python train.py' there by hand to look closer."
            )
        if kill_after_step is not None:
            self.say("Killed.")
        return printed

    def _prompt(self, *words: str) -> None:
        self.echo("")
        self.echo(self._styled("$ ", DIM) + self._styled(" ".join(_quoted(word) for word in words), BOLD))

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{PLAIN}" if self.color else text


def _quoted(word: str) -> str:
    """As a person would type it: revisions such as main@{1} and main~2 need no quotes in a shell."""
    return word if all(letter.isalnum() or letter in "-_./:~^@{}=+" for letter in word) else shlex.quote(word)


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "CIUIC_REPO"}
    environment["COLUMNS"] = str(shutil.get_terminal_size((100, 24)).columns)
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


@contextmanager
def _started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A child that does not outlive the block, however the block is left."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
    finally:
        process.wait()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")

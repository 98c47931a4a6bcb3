"""Asking a command about a snapshot: what it is told, and what its exit code says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.errors import BisectError, DamageError, Pruned
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.history.bisect_state import Verdict
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo

SKIP = 125
LAST_BAD = 127
STDERR = 2
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt"}
REVISION_MARK, FILE_MARK = "{}", "{file}"


@dataclass(frozen=True)
class Outcome:
    """What came of one try. ``code``: the command's exit code; None when it was not run, for ``reason``."""

    verdict: Verdict
    code: int | None
    seconds: float
    reason: str = ""

    def text(self) -> str:
        """ "bad (exit code 1, 3.1 s)"."""
        said = "skipped" if self.verdict == "skip" else self.verdict
        return f"{said} ({self.reason or f'exit code {self.code}, {humane.seconds(self.seconds)}'})"

    def record(self) -> dict[str, Any]:
        """As part of a JSON object."""
        return {"verdict": self.verdict, "exit_code": self.code, "seconds": self.seconds, "reason": self.reason}


class Asking:
    """One command, asked about many snapshots. ``quiet_stdout``: what it prints goes to stderr."""

    def __init__(
        self, repo: Repo, command: tuple[str, ...], export_format: str | None, component: str, *, quiet_stdout: bool
    ) -> None:
        if export_format is None and any(_mark_at_end(word, FILE_MARK) for word in command):
            raise click.UsageError("{file} is the file that --export writes: give --export safetensors, or torch.")
        self._repo = repo
        self._command = command
        self._format = export_format
        self._component = component
        self._quiet_stdout = quiet_stdout

    def ask(self, snapshot: Snapshot) -> Outcome:
        """Run the command to its end. BisectError when it cannot be run, or its exit code asks to stop."""
        if self._format is None:
            return self._run(snapshot, None)
        with tempfile.TemporaryDirectory(prefix="ciuic-bisect-") as folder:
            file = os.path.join(folder, short(snapshot.id) + SUFFIXES[self._format])
            try:
                self._export(snapshot, file)
            except (Pruned, DamageError) as error:
                return Outcome("skip", None, 0.0, str(error))
            return self._run(snapshot, file)

    def _export(self, snapshot: Snapshot, file: str) -> None:
        from ciuic.interchange.transfer import export

        export(self._repo, snapshot.id, file, component=self._component, format=self._format)

    def _run(self, snapshot: Snapshot, file: str | None) -> Outcome:
        values = {REVISION_MARK: snapshot.id, **({FILE_MARK: file} if file is not None else {})}
        words = [_filled(word, values) for word in self._command]
        told = {"CIUIC_REPO": self._repo.path, "CIUIC_REVISION": snapshot.id}
        if snapshot.step is not None:
            told["CIUIC_STEP"] = str(snapshot.step)
        if file is not None:
            told["CIUIC_EXPORT"] = file
        sys.stdout.flush()
        began = time.monotonic()
        try:
            code = subprocess.call(words, env={**os.environ, **told}, stdout=STDERR if self._quiet_stdout else None)
        except OSError as error:
            raise BisectError(f"{words[0]} cannot be run: {error.strerror}. Nothing was noted of it.") from None
        seconds = time.monotonic() - began
        if code == SKIP:
            return Outcome("skip", code, seconds)
        if 0 <= code <= LAST_BAD:
            return Outcome("bad" if code else "good", code, seconds)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise BisectError(
            f"The command {how} on {snapshot.named}, which stops the search. The same command line "
            "goes on from here; `ciuic bisect reset` forgets the answers."
        )


def _mark_at_end(word: str, mark: str) -> bool:
    """Whether a word is the mark, or ends with one as an option's value."""
    return word == mark or word.endswith("=" + mark)


def _filled(word: str, values: Mapping[str, str]) -> str:
    for mark, value in values.items():
        if _mark_at_end(word, mark):
            return word[: -len(mark)] + value
    return word

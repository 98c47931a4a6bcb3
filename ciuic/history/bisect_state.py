"""The file that keeps the answers of a bisection: replaced as a whole, so that a crash leaves the old or the new."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ciuic.errors import BisectError
from ciuic.store.store import Store

Verdict = Literal["good", "bad", "skip"]
NAME = "bisect"
VERSION = 1
ID = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class Answer:
    """What somebody said of a snapshot (its hex id)."""

    snapshot: str
    verdict: Verdict


@dataclass(frozen=True)
class Progress:
    """All answers, oldest first. ``command``: whose exit codes they are; empty where a person answers."""

    answers: tuple[Answer, ...] = ()
    command: tuple[str, ...] = ()

    def told(self, answer: Answer) -> Progress:
        """With one more answer; an earlier one about the same snapshot is taken back."""
        others = tuple(each for each in self.answers if each.snapshot != answer.snapshot)
        return replace(self, answers=(*others, answer))


class BisectFile:
    """``<repository>/bisect``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.join(NAME)

    def read(self) -> Progress | None:
        """None when there is no search; BisectError when the file says nothing sound."""
        import json

        try:
            value = json.loads(self._store.fs.read_file(self._path))
            return _progress(value)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise BisectError(
                f"{self._path} cannot be read. `ciuic bisect reset` removes it; no snapshot depends on it."
            ) from None

    def write(self, progress: Progress) -> None:
        """Durable on return."""
        import json

        self._store.check_writable()
        value = {
            "version": VERSION,
            "answers": [[each.snapshot, each.verdict] for each in progress.answers],
            "command": list(progress.command),
        }
        temporary = self._store.join("tmp", f"bisect-{os.getpid()}-{os.urandom(6).hex()}")
        with self._store.shared():  # gc empties tmp/
            self._store.fs.write_file(self._path, json.dumps(value).encode(), temporary)

    def remove(self) -> bool:
        """Durable on return; False when there was none."""
        self._store.check_writable()
        with contextlib.suppress(FileNotFoundError):
            self._store.fs.unlink(self._path)
            self._store.fs.sync_folder(self._store.path)
            return True
        return False


def _progress(value: dict[str, Any]) -> Progress:
    if value["version"] != VERSION:
        raise ValueError("of a later version")
    answers = tuple(Answer(snapshot, verdict) for snapshot, verdict in value["answers"])
    if not all(re.fullmatch(ID, each.snapshot) and each.verdict in get_args(Verdict) for each in answers):
        raise ValueError("not an answer")
    command = tuple(value["command"])
    if not all(isinstance(word, str) for word in command):
        raise ValueError("not a command")
    return Progress(answers, command)

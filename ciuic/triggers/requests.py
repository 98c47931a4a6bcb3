"""Snapshots on request: ``ciuic snap`` asks, a running training answers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ciuic.daemon_thread import DaemonThread
from ciuic.errors import BackgroundError, CiuicError, NoTraining, SnapshotSkipped, TornSnapshot
from ciuic.store.fs import LOCAL
from ciuic.store.locks import is_held
from ciuic.store.store import Store
from ciuic.triggers.engine import Moment, Run
from ciuic.triggers.letter_box import LetterBox, Lines, append, open_boxes

if TYPE_CHECKING:
    from ciuic.writer.pending import PendingSnapshot

LISTEN_EVERY_S = 0.25
LOOK_EVERY_S = 0.05
HEARD_WITHIN_S = 30.0
LONGEST_MESSAGE = 4096

logger = logging.getLogger("ciuic")


class OnRequest:
    """At the next boundary after somebody has asked with ``ciuic snap``. Several who ask at once get one snapshot."""

    def __init__(self) -> None:
        self._box: LetterBox | None = None
        self._stop = threading.Event()
        self._asked: deque[tuple[str, str]] = deque()  # (ask, message)
        self._taking: list[tuple[str, str]] = []

    def start(self, run: Run) -> None:
        self._stop = threading.Event()
        try:
            Store(run.path).check_writable()  # where nothing may be written, a letter box is no exception
            self._box = box = LetterBox(run.path)
        except (CiuicError, OSError) as error:
            logger.warning("`ciuic snap` will not reach this run: %s", error)
            return
        DaemonThread(self._listen, box, self._stop, name="ciuic-requests").start()

    def at_step(self, _moment: Moment) -> str | None:
        if not self._asked and not self._taking:
            return None
        while self._asked:
            self._taking.append(self._asked.popleft())
        messages = dict.fromkeys(message for _, message in self._taking)
        return "; ".join(f"on request: {message}" if message else "on request" for message in messages)

    def taken(self, _moment: Moment, pending: PendingSnapshot) -> None:
        taking, self._taking = self._taking, []
        for ask in taking:
            pending.add_done_callback(partial(self._ended, ask))

    def _ended(self, ask: tuple[str, str], pending: PendingSnapshot) -> None:
        error = pending.exception()
        if isinstance(error, (SnapshotSkipped, TornSnapshot)):
            self._asked.append(ask)  # the next boundary takes another one
        elif self._box is not None and error is not None:
            self._box.answer(ask[0], step=pending.step, error=str(error))
        elif self._box is not None:
            self._box.answer(ask[0], step=pending.step, snapshot=pending.result().id)

    def _listen(self, box: LetterBox, stop: threading.Event) -> None:
        while not stop.wait(LISTEN_EVERY_S):
            with contextlib.suppress(CiuicError, OSError):  # a disk that cannot be read for a moment
                for line in box.asks():
                    message = line.get("message")
                    self._asked.append((line["ask"], message[:LONGEST_MESSAGE] if isinstance(message, str) else ""))
                    box.answer(line["ask"], heard=True)

    def close(self) -> None:
        self._stop.set()
        box, self._box = self._box, None
        if box is not None:
            for ask, _ in [*self._taking, *self._asked]:
                box.answer(ask, error="The training ended before it came to the end of a step.")
            box.close()
        self._asked.clear()
        self._taking.clear()


@dataclass(frozen=True)
class Answer:
    """Of the training with this ``pid``. ``snapshot``: the hex id, once it is durable; ``error`` when it is not to be,
    in words."""

    pid: int
    step: int | None = None
    snapshot: str | None = None
    error: str | None = None


def ask(repository: str, message: str = "", *, wait: bool = False) -> Iterator[Answer]:
    """Ask every training that runs on the repository for a snapshot, and give their answers, one each.

    Without ``wait`` an answer says that it was heard; with it, which snapshot came of it. NoTraining when none runs
    here. A training that does not hear within 30 seconds answers with an error, as one that ends meanwhile does.
    """
    if len(message) > LONGEST_MESSAGE:
        raise BackgroundError(f"A message of {len(message)} characters is too long. Use {LONGEST_MESSAGE} at most.")
    boxes = open_boxes(repository)
    if not boxes:
        raise NoTraining(
            f"No training is running on {repository} that could be asked. It has to use SnapshotManager, to have begun "
            "its first step, and not to be told otherwise in config.toml (`on_request = false`)."
        )
    asked = []
    for path in boxes:
        question = os.urandom(8).hex()
        with contextlib.suppress(FileNotFoundError):  # it ends just now
            asked.append(_Conversation(path, question))
            append(LOCAL, path, {"ask": question, "message": message})
    for conversation in asked:
        try:
            yield conversation.end(wait)
        finally:
            conversation.close()


class _Conversation:
    """One question to one training."""

    def __init__(self, path: str, question: str) -> None:
        self._path = path
        self._question = question
        self._descriptor = LOCAL.open(path)
        self._lines = Lines(LOCAL, self._descriptor, path, LOCAL.size(self._descriptor))
        self._since_s = time.monotonic()

    def end(self, wait: bool) -> Answer:
        heard: dict[str, Any] | None = None
        while True:
            alive = is_held(LOCAL, self._path)  # looked at first: what it said last is read below
            for line in self._lines.new():
                if line.get("to") == self._question:
                    heard = line
                    if "snapshot" in line or "error" in line:
                        return Answer(_pid(line), line.get("step"), line.get("snapshot"), line.get("error"))
            if heard is not None and not wait:
                return Answer(_pid(heard))
            if not alive:
                error = "The training ended. `ciuic log` shows whether its last snapshot came about."
                return Answer(_pid(heard), error=error)
            if heard is None and time.monotonic() - self._since_s > HEARD_WITHIN_S:
                error = f"A training runs here and did not hear within {HEARD_WITHIN_S:g} s; it may be stopped."
                return Answer(0, error=f"{error} When it goes on, it takes the snapshot.")
            time.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        LOCAL.close(self._descriptor)


def _pid(line: dict[str, Any] | None) -> int:
    pid = 0 if line is None else line.get("pid")
    return pid if isinstance(pid, int) else 0

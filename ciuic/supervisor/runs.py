"""A repository's runs, as everybody may read them. Nothing written there is trusted: what does not fit is left out."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

from ciuic.errors import CiuicError, UnknownRevision
from ciuic.heartbeat import Heartbeat, read
from ciuic.store.fs import LOCAL
from ciuic.store.locks import is_held
from ciuic.supervisor.ending import last_step

FOLDER = "runs"
RUN, EVENTS, PAGE, LOCK = "run.json", "events.jsonl", "heartbeat", "lock"
NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")

State = Literal["running", "done", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Attempt:
    """``kind``: as in ``Ending``; None while it runs, or when nobody was there to see it end. ``step``: the last one
    done, ``resumed``: that of the snapshot it went on from. ``walked_back``: what was done after it, in words."""

    number: int
    began: datetime | None = None
    ended: datetime | None = None
    kind: str | None = None
    words: str = ""
    exit_code: int | None = None
    step: int | None = None
    resumed: int | None = None
    walked_back: str | None = None


@dataclass(frozen=True)
class Run:
    """``state``: "lost" when its supervisor was killed. ``why``: it ended, in words. ``path``: its folder."""

    id: str
    path: str
    command: tuple[str, ...]
    folder: str
    began: datetime | None
    attempts: tuple[Attempt, ...] = ()
    state: State = "lost"
    ended: datetime | None = None
    exit_code: int | None = None
    why: str = ""

    @property
    def step(self) -> int | None:
        """The last one done in the newest attempt that did any."""
        steps = [attempt.step for attempt in self.attempts if attempt.step is not None]
        return steps[-1] if steps else None

    def log(self, attempt: int) -> str:
        """The file with what that attempt said; it may be gone."""
        return os.path.join(self.path, log_name(attempt))


def log_name(attempt: int) -> str:
    return f"attempt-{attempt}.log"


def run_names(runs: str) -> list[str]:
    """The folders that are runs, oldest first."""
    if os.path.islink(runs):
        return []
    return sorted(name for name in LOCAL.list_folder(runs) if NAME.fullmatch(name))


def list_runs(repository: str) -> list[Run]:
    """Every run that has begun and can be read, oldest first."""
    runs = os.path.join(repository, FOLDER)
    return [run for name in run_names(runs) if (run := _read_run(os.path.join(runs, name))) is not None]


def find_run(repository: str, name: str) -> Run:
    """By its id, or a beginning or an end of it that no other has; UnknownRevision."""
    runs = list_runs(repository)
    found = [run for run in runs if run.id == name] or [
        run for run in runs if name and (run.id.startswith(name) or run.id.endswith(name))
    ]
    if len(found) != 1:
        what = f"{len(found)} runs are called" if found else "There is no run"
        raise UnknownRevision(f"{what} {name!r} in {repository}. `ciuic runs` lists them.")
    return found[0]


def is_running(path: str) -> bool:
    """Whether the supervisor of the run in this folder lives, on this host."""
    with contextlib.suppress(CiuicError, OSError):
        return is_held(LOCAL, os.path.join(path, LOCK))
    return False


def _read_run(path: str) -> Run | None:
    facts = _object(_text(os.path.join(path, RUN)))
    if os.path.islink(path) or not facts:
        return None
    command = facts.get("command")
    run = Run(
        id=os.path.basename(path),
        path=path,
        command=tuple(str(word) for word in command) if isinstance(command, list) else (),
        folder=str(facts.get("folder", "")),
        began=_time(facts.get("began")),
    )
    for event in _events(path):
        run = _after(run, event)
    if run.ended is not None:
        return run
    if is_running(path):
        return replace(run, state="running", attempts=_with_heartbeat(run))
    return replace(run, attempts=_with_heartbeat(run))


def _with_heartbeat(run: Run) -> tuple[Attempt, ...]:
    """The newest attempt's step, where no event has told it."""
    if not run.attempts or run.attempts[-1].ended is not None:
        return run.attempts
    beat = _heartbeat(run.path)
    return (*run.attempts[:-1], replace(run.attempts[-1], step=last_step(beat), resumed=beat.restored))


def _heartbeat(path: str) -> Heartbeat:
    with contextlib.suppress(CiuicError, OSError):
        return read(LOCAL.read_file(os.path.join(path, PAGE)))
    return Heartbeat()


def _events(path: str) -> Iterator[Mapping[str, Any]]:
    for line in _text(os.path.join(path, EVENTS)).splitlines():
        event = _object(line)
        if event:
            yield event


def _after(run: Run, event: Mapping[str, Any]) -> Run:
    """The run with one event more."""
    kind, number, time = event.get("event"), _integer(event.get("attempt")), _time(event.get("time"))
    if kind == "started" and number is not None:
        return replace(run, attempts=(*run.attempts, Attempt(number, began=time)))
    if kind == "finished" and time is not None:
        state: State = "failed"
        if event.get("state") in ("done", "stopped"):
            state = event["state"]
        code = _integer(event.get("exit_code"))
        return replace(run, state=state, ended=time, exit_code=code, why=str(event.get("why", "")))
    if not run.attempts or number != run.attempts[-1].number:
        return run
    last = run.attempts[-1]
    if kind == "ended":
        last = replace(
            last,
            ended=time,
            kind=str(event.get("kind", "")),
            words=str(event.get("words", "")),
            exit_code=_integer(event.get("exit_code")),
            step=_integer(event.get("step")),
            resumed=_integer(event.get("resumed")),
        )
    elif kind == "walked-back":
        last = replace(last, walked_back=str(event.get("words", "")))
    return replace(run, attempts=(*run.attempts[:-1], last))


def _text(path: str) -> str:
    with contextlib.suppress(CiuicError, OSError):
        return LOCAL.read_file(path).decode("utf-8", "replace")
    return ""


def _object(text: str) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Any) -> datetime | None:
    with contextlib.suppress(ValueError, TypeError):
        time = datetime.fromisoformat(value)
        return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
    return None

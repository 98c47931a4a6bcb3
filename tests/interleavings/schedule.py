"""Actors that go on one file effect at a time, one at a time, in an order that somebody chooses.

Each actor is a thread with a store of its own. What keeps processes apart are kernel locks (flock), which belong to an
open file and not to a process, so they keep these threads apart in the same way. What they do share is LMDB's map of
the index; two processes on one index are the storm's business.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ciuic.store.fs import FileSystem

STEPS = ("create", "write", "write_at", "sync", "sync_folder", "rename", "link", "unlink", "make_folder")
READS = ("open", "read_at", "read_into", "list_folder")
LONG_S = 1.0
"""What goes by when everybody waits for a lock."""

_here = threading.local()


class Actor:
    """``trace``: what it has done so far. ``steps`` counts it. ``error``: what its action raised."""

    def __init__(self, name: str, action: Callable[[], object]) -> None:
        self.name = name
        self.action = action
        self.go = threading.Semaphore(0)
        self.waiting = self.done = False
        self.steps = 0
        self.result: Any = None
        self.error: BaseException | None = None


Choice = Callable[[Sequence[Actor]], Actor]
"""Picks the actor that goes on, out of those that can."""


class Schedule:
    """Runs actors until all are done. ``trace``: who did what, in order."""

    def __init__(self, choose: Choice, clock: Clock) -> None:
        self.choose = choose
        self.clock = clock
        self.trace: list[str] = []
        self._stopped = threading.Semaphore(0)

    def run(self, **actions: Callable[[], object]) -> dict[str, Actor]:
        """By name; what an action raised stands in its actor."""
        actors = [Actor(name, action) for name, action in actions.items()]
        threads = [threading.Thread(target=self._act, args=(actor,), daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        while alive := [actor for actor in actors if not actor.done]:
            able = [actor for actor in alive if not actor.waiting]
            if not able:
                self.clock.now += LONG_S
            actor = self.choose(able or alive)
            actor.go.release()
            self._stopped.acquire()
            if not actor.waiting:
                for other in alive:
                    other.waiting = False
        for thread in threads:
            thread.join()
        return {actor.name: actor for actor in actors}

    def _act(self, actor: Actor) -> None:
        _here.actor, _here.schedule = actor, self
        actor.go.acquire()
        try:
            actor.result = actor.action()
        except BaseException as error:
            actor.error = error
        actor.done = True
        self._stopped.release()

    def stop(self, actor: Actor, what: str, *, waiting: bool = False) -> None:
        """In an actor's thread: let the others go on, and come back when chosen."""
        actor.waiting = waiting
        if not waiting:
            actor.steps += 1
            self.trace.append(f"{actor.name}: {what}")
        self._stopped.release()
        actor.go.acquire()


class Clock:
    """Stands in for ``time`` where locks are waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        actor = getattr(_here, "actor", None)
        if actor is None:
            self.now += seconds
            time.sleep(seconds)
        else:
            _here.schedule.stop(actor, "waits for a lock", waiting=True)


class SteppedFileSystem(FileSystem):
    """An actor stops before each of its file effects and reads; anybody else passes."""


def _stepped(name: str) -> Any:
    real = getattr(FileSystem, name)

    def effect(self: SteppedFileSystem, *arguments: Any, **more: Any) -> Any:
        actor = getattr(_here, "actor", None)
        if actor is not None:
            path = next((str(each) for each in arguments if isinstance(each, str)), "")
            _here.schedule.stop(actor, f"{name} {'/'.join(path.split('/')[-2:])}")
        return real(self, *arguments, **more)

    return effect


for _name in (*STEPS, *READS):
    setattr(SteppedFileSystem, _name, _stepped(_name))


# Choices


def seeded(seed: int) -> Choice:
    """At random, the same for the same seed; some seeds change at every step, some seldom."""
    chance = random.Random(seed)
    stay = chance.choice([0.0, 0.5, 0.9, 0.97])
    before: list[Actor] = []

    def choose(able: Sequence[Actor]) -> Actor:
        if not (before and before[0] in able and chance.random() < stay):
            before[:] = [chance.choice(able)]
        return before[0]

    return choose


def interrupted(name: str, at: int) -> Choice:
    """The actor ``name`` up to its step ``at``; then the others, as far as they come; then the rest of it."""

    def choose(able: Sequence[Actor]) -> Actor:
        ours = [actor for actor in able if actor.name == name]
        others = [actor for actor in able if actor.name != name]
        if ours and (ours[0].steps < at or not others):
            return ours[0]
        return others[0]

    return choose

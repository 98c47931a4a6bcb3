"""Forked children (data loader workers, above all) have none of a trigger's threads, files and signal handlers."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """What a child has to give up."""

    def forget(self) -> None:
        """In the child: close what it has inherited, without a word to anybody else."""
        ...


_alive: weakref.WeakSet[Inherited] = weakref.WeakSet()


def forget_in_children(trigger: Inherited) -> None:
    """``trigger.forget()`` right after each fork, in the child."""
    _alive.add(trigger)


def keep_in_children(trigger: Inherited) -> None:
    """There is nothing to give up any more."""
    _alive.discard(trigger)


def _forget() -> None:
    for trigger in list(_alive):
        with contextlib.suppress(Exception):
            trigger.forget()
    _alive.clear()


os.register_at_fork(after_in_child=_forget)

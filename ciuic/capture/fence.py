"""The fence: no optimizer of this process steps while a copy of what it changes is under way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Fenced(Protocol):
    """A copy under way."""

    def hold_step(self) -> None:
        """Return when the state may change: on the CPU waits for the copy, on CUDA tells the stream to."""
        ...

    def wait(self) -> None:
        """Return when the copy is complete."""
        ...


_under_way: list[Fenced] = []
_guard = threading.RLock()  # a signal handler may come in between
_watchers: list[Callable[[torch.optim.Optimizer], None]] = []
_hooked = False


def register(copy: Fenced) -> None:
    """From now on optimizers wait for ``copy``."""
    with _guard:
        _hook()
        _under_way.append(copy)


def _hook() -> None:
    """Once a process, when it is first needed."""
    global _hooked
    if not _hooked:
        register_optimizer_step_pre_hook(_before_step)
        _hooked = True


def release(copy: Fenced) -> None:
    """``copy`` is complete, or given up."""
    with _guard:
        if copy in _under_way:
            _under_way.remove(copy)


def watch(call: Callable[[torch.optim.Optimizer], None]) -> Callable[[], None]:
    """``call(optimizer)`` before each step, when nothing is being copied any more; returns what ends it."""
    with _guard:
        _hook()
        _watchers.append(call)
    return lambda: _watchers.remove(call) if call in _watchers else None


def wait() -> None:
    """Return when every copy of this process is complete, so that any state may be changed in any way."""
    for copy in _now():
        copy.wait()


def _now() -> list[Fenced]:
    with _guard:
        return list(_under_way)


def _before_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    if _under_way:
        for copy in _now():
            copy.hold_step()
    for call in list(_watchers):
        call(optimizer)


def _forget_in_child() -> None:
    """The thread that copies is not there after a fork, and what it copied for is the parent's."""
    global _guard
    _guard = threading.RLock()
    _under_way.clear()
    _watchers.clear()


os.register_at_fork(after_in_child=_forget_in_child)

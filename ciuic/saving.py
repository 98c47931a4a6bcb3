"""How one repository object saves: at once while the caller waits, or staged for a writer process of its own."""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ciuic.errors import StorageFull, UnsupportedState
from ciuic.history.following import Following
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Plain, StateNode
from ciuic.store.store import Store

if TYPE_CHECKING:
    from ciuic.background import Background, Priority
    from ciuic.commit.earlier import Memory
    from ciuic.commit.pipeline import Details
    from ciuic.writer.pending import PendingSnapshot
    from ciuic.writer.retiring import Retiring


class Saving:
    """The commits of one repository object, in call order.

    ``retention``: policies as texts, which hold after each; None for those of config.toml. The rest: of ``Background``.
    """

    def __init__(
        self,
        store: Store,
        following: Following,
        *,
        slots: int,
        priority: Priority,
        timeout: float,
        retention: Sequence[str] | None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._store = store
        self._following = following
        self._retention = retention
        self._options: dict[str, Any] = {"slots": slots, "priority": priority, "timeout": timeout}
        self._memory: Memory | None = None
        self._retiring: Retiring | None = None
        self._engine: Background | None = None

    def commit(self, components: Mapping[str, StateNode], details: Details) -> Snapshot:
        """A snapshot, and then what the retention policies ask for, neither of which the other one's failure harms."""
        from ciuic.writer.retiring import Retiring

        retiring = self._retiring = self._retiring or Retiring(self._retention)
        with self.settled():
            retiring.make_room(self._following, 0)
            try:
                snapshot = self._commit_once(components, details)
            except StorageFull:
                if not retiring.make_room(self._following, 0, full=True):
                    raise
                snapshot = self._commit_once(components, details)
            retiring.after(snapshot, self._following)
        return snapshot

    def _commit_once(self, components: Mapping[str, StateNode], details: Details) -> Snapshot:
        from ciuic.commit.earlier import Memory
        from ciuic.commit.pipeline import commit_snapshot

        self._memory = self._memory or Memory()
        with self._store.shared():
            parent = self._following.next_parent()
            return commit_snapshot(
                self._store,
                components,
                replace(details, parents=() if parent is None else (parent,)),
                lambda snapshot: self._following.advance(snapshot, _action(details)),
                self._memory,
            )

    def commit_later(
        self, components: dict[str, StateNode], details: Details, model: Any, optimizer: Any, **options: Any
    ) -> PendingSnapshot:
        """Order a copy, to be stored by the writer process. Where there is no memory for one, ``commit``."""
        from ciuic.background import NoRoom
        from ciuic.state.gradients import optimizers_in
        from ciuic.state.ownership import ordered_leaves
        from ciuic.writer.pending import completed

        self._store.check_writable()
        try:
            with self._following.moving:
                return self.engine().commit(
                    components,
                    ordered_leaves(components, model, optimizer),
                    details,
                    _action(details),
                    optimizer=next(iter(optimizers_in(optimizer)), None),
                    **options,
                )
        except NoRoom as error:
            _warn(f"The snapshot of step {details.step} is taken while training waits: {error}.")
            pending = completed(details.step, lambda: self.commit(components, details))
            failure = pending.exception()
            self.engine().count("published" if failure is None else "failed")
            if failure is not None:
                _warn(f"No snapshot of step {details.step}: {failure}")
            return pending

    def prepare(self, components: Mapping[str, StateNode], more: int) -> None:
        """Make every slot ready for this state and ``more`` bytes, and start the writer process."""
        from ciuic.background import NoRoom

        self._store.check_writable()
        try:
            self.engine().prepare(components, more)
        except NoRoom as error:
            _warn(f"Snapshots will be taken while training waits: {error}.")

    def fence(self) -> None:
        """Return when the ordered copies are complete."""
        if self._own_engine() is not None:
            from ciuic.capture import fence

            fence.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Until every ordered snapshot is durable or has failed; False after ``timeout`` seconds."""
        engine = self._own_engine()
        return engine is None or engine.wait(timeout)

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """What one object commits and restores, it does in call order: after all that is pending."""
        with self._following.moving:
            self.fence()
            self.wait()
            yield

    @property
    def busy(self) -> bool:
        """Whether every slot is in use now."""
        engine = self._own_engine()
        return engine is not None and not engine.free

    def close(self, timeout: float | None) -> None:
        """Wait for every snapshot, end the writer process, free the slots."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._closing.detach()
            engine.close() if timeout is None else engine.close(timeout)
        if self._retiring is not None and timeout is None:
            self._retiring.finish()

    def engine(self) -> Background:
        """This process's engine."""
        engine = self._own_engine()
        if engine is None:
            from ciuic.background import Background

            self._engine = engine = Background(
                self._store.path, self._following, self.counts, retention=self._retention, **self._options
            )
            self._closing = weakref.finalize(self, engine.close_later)
            self._closing.atexit = False
        return engine

    def _own_engine(self) -> Background | None:
        """The engine, if there is one and it is not the parent's of a forked process."""
        return self._engine if self._engine is not None and self._engine.owner == os.getpid() else None


def details_of(
    contains: tuple[str, ...],
    step: int | None,
    epoch: int | None,
    message: str,
    metrics: Mapping[str, Any] | None,
    config: Mapping[str, Plain] | None,
) -> Details:
    """What a snapshot taken now says besides its components; nothing of it is shared with the caller."""
    from ciuic.commit.pipeline import Details
    from ciuic.objects.plain import decode_plain, encode_plain, number_of

    return Details(
        step=None if step is None else int(operator.index(step)),
        epoch=None if epoch is None else int(operator.index(epoch)),
        message=_text(message),
        metrics={str(name): number_of(value, f"metrics/{name}") for name, value in (metrics or {}).items()},
        config=decode_plain(encode_plain(dict(config), "config")) if config else {},
        contains=contains,
        versions=_versions(),
        timestamp=datetime.now(timezone.utc),
    )


def _action(details: Details) -> str:
    """What the log of the branch says of a commit."""
    if details.message:
        return f"commit: {details.message}"
    return "commit" if details.step is None else f"commit: step {details.step}"


def _text(message: Any) -> str:
    if not isinstance(message, str):
        raise UnsupportedState(f"message: text is needed, not {message!r}. Put other values into config or extra.")
    return message


def _versions() -> dict[str, str]:
    import platform

    import torch

    import ciuic

    return {"ciuic": ciuic.__version__, "torch": torch.__version__, "python": platform.python_version()}


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """A garbage collection among the thousands of objects made in a call would be a pause of training's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warn(message: str) -> None:
    """In the log of the program."""
    import logging  # 8 ms that `ciuic log` need not spend

    logging.getLogger("ciuic").warning(message)

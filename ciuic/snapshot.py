"""``SnapshotManager``: snapshots in a training loop, in three lines."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ciuic.errors import CiuicError, MissingPackage, MonitoringError, SnapshotSkipped, StateMismatch, TornSnapshot
from ciuic.notices import notice
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.repo import Repo
from ciuic.retrying import Retrying
from ciuic.store.prunes import NEEDED_TO_RESUME
from ciuic.supervised import Supervised
from ciuic.triggers.configured import combined
from ciuic.triggers.engine import Engine, Moment, Run, Trigger
from ciuic.triggers.numbers import Metrics, readable
from ciuic.triggers.pace import Pace
from ciuic.triggers.steps import EverySteps
from ciuic.triggers.watch import Watch
from ciuic.writer.pending import PendingSnapshot, completed, failed

if TYPE_CHECKING:
    from ciuic.batches import Loops
    from ciuic.monitoring import Exporter
    from ciuic.state.tracked import Tracked

__all__ = ["Snapshot", "SnapshotManager"]

logger = logging.getLogger("ciuic")


class SnapshotManager:
    """Saves a snapshot when one is due, and finds the one to resume from.

    ``snapshot_dir`` becomes an ordinary repository if it is new or empty. A snapshot is due when one of ``triggers``
    says so, asked at the end of every step; ``auto_save_interval=100`` is one of them: after every 100th completed
    step (99, 199, …). The table ``[triggers]`` of ``config.toml`` may ask for others, of kinds that are not given here.
    Several at once make one snapshot, whose message lists their reasons.

    ``track`` says what belongs to the run and ``step`` ends a step. Or hand the objects over with every ``save``.
    Either returns in milliseconds, and another process stores the snapshot (see ``Repo.commit(wait=False)``).
    When every slot is in use it waits for one as long as a step takes, then skips, says so, and saves at the first
    step that finds one; ``when_busy`` "wait" waits without limit, "skip" not at all.
    A failure is logged and counted in ``failures``, and training goes on; the next calls try again, after
    1, 2, 4, … steps. ``on_error="raise"`` raises instead, at the next call. ``options``: those of ``Repo``, such
    as ``retention=[KeepLast(20)]``.
    ``metrics_port=9464`` serves figures to Prometheus there (see ``ciuic.monitoring``), to this machine alone.
    The end of a ``with`` block, ``close()`` or the end of the program waits for what was saved.
    """

    def __init__(
        self,
        snapshot_dir: str | os.PathLike[str],
        auto_save_interval: int | None = None,
        *,
        triggers: Sequence[Trigger] = (),
        on_error: Literal["warn", "raise"] = "warn",
        when_busy: Literal["wait", "skip"] | None = None,
        metrics_port: int | None = None,
        **options: Any,
    ) -> None:
        self._supervised = Supervised()  # `ciuic run` and `ciuic verify-resume` ask for things, and are told each step
        intervals = (auto_save_interval, self._supervised.every)
        self._routine = [EverySteps(interval) for interval in intervals if interval is not None]
        if self._supervised.repository:
            options["retention"] = ()  # whoever asks for another repository compares all that is in it
        self.repo = Repo.open(self._supervised.repository or snapshot_dir, create=True, **options)
        past_metrics = weakref.WeakMethod(self._past_metrics)  # a run that is forgotten is closed
        run = Run(self.repo.path, lambda: method() if (method := past_metrics()) else ())
        abandon = partial(self.repo.close, timeout=0)
        asked = combined(self.repo.settings("triggers"), [*self._routine, *triggers])
        self._watch = Watch(Engine(asked), run, self.repo.commit_components, abandon)
        self._supervised.opened(self.repo.path)
        self.repo.await_earlier_run()
        self.auto_save_interval = auto_save_interval
        self.when_busy = "wait" if self._supervised.every else when_busy
        self._retrying = Retrying(on_error, auto_save_interval)
        self._pace = Pace()
        self._underway = False  # a snapshot has been restored or saved, or a batch was given
        self._resume: tuple[str | None, Snapshot | None] | None = None  # HEAD, and where to resume then
        self._origin: str | None = None  # the snapshot that the run goes on from, and what it was restored into
        self._given: Mapping[str, Any] = {}
        self._tracked: Tracked | None = None
        self._next_step = 0
        self._loops: Loops | None = None
        self._restored: Snapshot | None = None  # whose position in the data the next loop looks up
        self._newest: PendingSnapshot | None = None
        self._boundary: Moment | None = None  # the newest
        self._exporter = None if metrics_port is None else self._export(metrics_port)

    def _export(self, port: int) -> Exporter | None:
        """A port that is taken, by a worker of the run before for example, is no reason not to train."""
        from ciuic.monitoring import serve

        try:
            return serve(self, port)
        except MissingPackage:
            raise
        except MonitoringError as error:
            logger.warning("This run is not exported to Prometheus: %s", error)
            return None

    def __enter__(self) -> SnapshotManager:
        self._watch.begin()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """With an exception, the step before it is saved if a trigger wants it; nothing is raised in its place."""
        if error is None:
            self.close()
            return
        try:
            self._watch.end_with(error)
        finally:
            try:
                self.close()
            except CiuicError as failure:
                logger.error("The end of a run that ended with %s: %s", type(error).__name__, failure)

    def _past_metrics(self) -> Iterator[Mapping[str, float]]:
        """Of the snapshots that the run comes from, newest first."""
        return (snapshot.metrics for snapshot in self.repo.log(self._origin))

    @property
    def counts(self) -> dict[str, int]:
        """How the snapshots went: see ``Repo.counts``."""
        return self.repo.counts

    @property
    def last_step(self) -> int | None:
        """The newest step that ended; None before the first."""
        return self._pace.last_step

    @property
    def failures(self) -> int:
        """How many snapshots failed."""
        return self._retrying.failures

    def prepare(self, model: Any = None, optimizer: Any = None, **objects: Any) -> None:
        """Make memory ready before the first step, and start the writer process: see ``Repo.prepare``."""
        self.repo.prepare(model, optimizer, **objects)

    def has_snapshots(self) -> bool:
        """Whether there is one to resume from."""
        return self.get_latest_snapshot() is not None

    def get_latest_snapshot(self) -> Snapshot | None:
        """The snapshot to resume from: the newest before HEAD whose state was not pruned; None without any.

        Until this run has restored or saved one, all of it is read: a damaged one is passed over, with a warning in the
        log, and the run goes on from the newest that is intact, on a branch of its own. DamageError when none is.
        """
        self.repo.wait()
        if not self._underway:
            tip = self.repo.head().snapshot
            if self._resume is None or self._resume[0] != tip:
                self._resume = tip, self.repo.newest_intact()
                if self._resume[1] is None:
                    notice("Nothing to resume from in %s: the run begins anew.", self.repo.path)
            return self._resume[1]
        prunes = self.repo.prunes()
        for limit in (1, None):  # mostly the first one serves
            for snapshot in self.repo.log(limit=limit):
                if not prunes.get(snapshot.id, frozenset()) & NEEDED_TO_RESUME:
                    return snapshot
        return None

    def snapshots(self) -> list[Snapshot]:
        """All snapshots before HEAD, newest first."""
        self.repo.wait()
        return list(self.repo.log())

    def track(self, **objects: Any) -> None:
        """Say what belongs to the run: every snapshot of ``step`` holds it, and ``resume`` brings it back.

        ``model``, ``optimizer``, ``scheduler``, ``scaler``: each one object, or a list or dict of them. Any other name
        takes an object with ``state_dict`` and ``load_state_dict``, a tensor, an array, a generator (torch's, numpy's,
        Python's), or a list or dict of plain values and these; ``config`` plain values that are recorded, not restored.
        A name given again replaces what it named. UnsupportedState for what could not be brought back.
        """
        self._watch.begin()
        if self._tracked is None:
            from ciuic.state.tracked import Tracked

            self._tracked = Tracked()
        self._tracked.add(objects)

    def resume(self) -> int:
        """Bring what is tracked, and the random generators, to the newest intact snapshot; the number of the next step.

        0 without a snapshot. Does so once: a run that has restored or saved one, or was given a batch, goes on from
        there. Says so, and what is tracked and not in the snapshot, or the reverse.
        """
        if not self._underway:
            latest = self.get_latest_snapshot()
            if latest is not None:
                if self._tracked is None and "model" in latest.tree:
                    raise StateMismatch(
                        f"{latest!r} has a model, and nothing is tracked: it would not come back. "
                        "Call track(model=…, optimizer=…) before, or restore(…) the snapshot yourself.",
                        ("model: not tracked",),
                    )
                self.restore(latest)
        return self._next_step

    def restore(self, snapshot: Snapshot | str, **objects: Any) -> Snapshot:
        """Bring the objects given, without any what is tracked, to the snapshot's state, in place.

        Takes the keywords of ``Repo.restore``. Steps are counted on from the snapshot's.
        """
        restored = self._bring_back(snapshot, objects)
        self._underway = True
        self._origin, self._given = restored.id, objects
        self._next_step = 0 if restored.step is None else restored.step + 1
        self._restored = restored
        self._supervised.restored(restored.step)
        notice("Resuming after step %s, from snapshot %s of %s.", restored.step, short(restored.id), self.repo.path)
        return restored

    def _bring_back(self, snapshot: Snapshot | str, objects: Mapping[str, Any]) -> Snapshot:
        if self._tracked is not None and not objects:
            objects = self._tracked.for_restore(self.repo.resolve(snapshot))
        return self.repo.restore(snapshot, **objects)

    def due(self, step: int) -> bool:
        """Whether ``save`` would act at this step, as far as the step's number alone tells."""
        moment = self._moment(step, {})
        return self._again(step) or any(trigger.at_step(moment) is not None for trigger in self._routine)

    def _again(self, step: int) -> bool:
        """Whether a snapshot that did not come about is to be taken now."""
        return self._retrying.due(step, lambda: self.repo.busy)

    def batches(
        self, loader: Any, *, max_steps: int | None = None, max_epochs: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Resume, then give (step, batch): the very next batch first, as if the run had not stopped.

        The loop ends when the run, all of it, has drawn ``max_steps`` batches or gone through ``max_epochs`` epochs;
        without either after one epoch. Its end takes a last snapshot and waits until that is durable. A run that is
        complete gives nothing, and says so; with a larger maximum it goes on. Leaving by ``break`` takes none.
        ``loader``: a DataLoader, whose drawn batches are passed over by index and not loaded; what has ``state_dict``
        and ``load_state_dict``, such as torchdata's StatefulDataLoader; any other iterable, whose drawn batches are
        loaded again and dropped. PositionError when it cannot be brought to the position.
        """
        from ciuic.batches import Loops

        self.resume()
        loops = self._loops = self._loops or Loops()
        restored, self._restored = self._restored, None
        if restored is not None:
            loops.restored(self.repo.components(restored).get("data"), restored.step, restored.epoch)
        loop = loops.begin(loader, self._next_step, max_steps=max_steps, max_epochs=max_epochs)
        if loop is None:
            return
        epoch = drawn = None
        try:
            if loops.strayed and self._origin is not None:
                self._bring_back(self._origin, self._given)
            for drawn, batch in loop:
                epoch, loops.drawn, self._next_step, self._underway = loop.epoch, drawn, drawn + 1, True
                self._restored = None  # a loop that goes on after a restore stands where it stands
                yield drawn, batch
                loops.check_current(loop)
            if drawn is not None:
                self._end(drawn, epoch)
        finally:
            loops.leave(loop)
        if drawn is None:
            logger.warning(
                "Nothing to do: this loop is complete, and the run has %d steps. A larger `max_steps` or `max_epochs` "
                "goes on.", loop.next_step,
            )  # fmt: skip

    def _end(self, step: int, epoch: int | None) -> None:
        """The state after the last step of a loop is durable, or has failed."""
        newest = self._newest
        if newest is None or newest.step != step or newest.exception() is not None:
            last = self._boundary
            moment = last if last is not None and last.step == step else self._moment(step, {"epoch": epoch})
            self._order(moment, True, {"epoch": epoch}, ("end of the loop",))
        self._retrying.raise_error()

    def step(self, /, **metrics: Any) -> PendingSnapshot | None:
        """End a step: ask the triggers, and save a snapshot of what is tracked if one is due; None otherwise.

        Call it when the step is complete, after ``optimizer.step()``. ``metrics`` are numbers or 0-d tensors, which are
        read only when a trigger asks for them or a snapshot is due. A step has the number of its batch; outside of
        ``batches``, steps are counted from the one resumed from. Costs about ten microseconds when nothing is due.
        """
        step = self._next_step
        if self._loops is not None and self._loops.running:
            if self._loops.drawn is None:
                return None  # this step has been ended
            step, self._loops.drawn = self._loops.drawn, None
        return self.save(step, metrics=metrics)

    def save(
        self,
        step: int,
        model: Any = None,
        optimizer: Any = None,
        *,
        force: bool = False,
        wait: bool = False,
        **details: Any,
    ) -> PendingSnapshot | None:
        """Save a snapshot if one is due after this completed step; takes the keywords of ``Repo.commit``.

        None if none was due. What is tracked need not be given. With ``wait=True`` the snapshot is durable, or has
        failed, on return.
        """
        self._retrying.raise_error()
        self._supervised.at_step(step)
        self._pace.ended(step)
        self._next_step = step + 1
        moment = self._boundary = self._moment(step, details)
        decision = self._watch.at_step(moment)
        given = {"model": model, "optimizer": optimizer, **details}
        if not (force or decision.due or self._again(step)):
            self._watch.passed(step, lambda: self._whole(given, ()))
            return None
        self._retrying.begun()
        self._underway = True
        pending = self._order(moment, wait, given, decision.reasons, decision.grace_s)
        if pending.done() and pending.exception() is not None:
            self._watch.passed(step, lambda: self._whole(given, ()))
        if decision.leave is not None:
            self._watch.leave(decision.leave, pending, durable=self.repo.wait(decision.grace_s))
        if pending.done():
            self._retrying.raise_error()
        return pending

    def _order(
        self, moment: Moment, wait: bool, given: dict[str, Any], reasons: tuple[str, ...], grace_s: float | None = None
    ) -> PendingSnapshot:
        """One snapshot of this boundary."""
        given = {**given, "metrics": readable(moment.metrics) or None}  # what a trigger has read is not read again
        pending = self._newest = self._take(moment.step, wait, self._whole(given, reasons), grace_s)
        self._pace.taken(moment.step)
        pending.add_done_callback(self._ended)
        self._watch.taken(moment, pending)
        return pending

    def _moment(self, step: int, details: Mapping[str, Any]) -> Moment:
        epoch = details.get("epoch")
        if epoch is None and self._loops is not None:
            epoch = self._loops.epoch
        return self._pace.moment(step, epoch, Metrics(details.get("metrics") or {}))

    def _whole(self, given: dict[str, Any], reasons: tuple[str, ...]) -> dict[str, Any]:
        """The keywords of a commit: what is given, beside it what is tracked, where in the data it stands, and why."""
        whole = self._tracked.for_commit() if self._tracked is not None else {}
        if self._loops is not None:
            whole.update(data=self._loops.position(self._next_step), epoch=self._loops.epoch)
        whole |= {name: value for name, value in given.items() if value is not None}
        routine = {f"every {trigger.interval} steps" for trigger in self._routine}  # it needs no words
        whole.setdefault("message", "; ".join(reason for reason in reasons if reason not in routine))
        return whole

    def _take(self, step: int, wait: bool, details: dict[str, Any], grace_s: float | None) -> PendingSnapshot:
        """``grace_s``: how long the last snapshot of a run may wait for a slot."""
        if wait:
            return completed(step, lambda: self.repo.commit(step=step, **details))
        busy: dict[str, Any] = {"when_busy": self.when_busy or "wait"}
        if grace_s is not None:
            busy = {"when_busy": "wait", "busy_timeout": grace_s}
        elif self.when_busy is None:
            busy["busy_timeout"] = self._pace.step_s or 0.0
        try:
            return self.repo.commit(step=step, wait=False, **{**busy, **details})
        except CiuicError as error:
            return failed(step, error)

    def _ended(self, pending: PendingSnapshot) -> None:
        """In the thread that ended it."""
        error, step = pending.exception(), pending.step or 0
        if error is None:
            self._pace.published(pending.result())
            self._retrying.succeeded(step)
        elif isinstance(error, (SnapshotSkipped, TornSnapshot)):
            self._retrying.missed()
        else:
            self._retrying.failed(step, error, self._pace.last_step or step)

    def fence(self) -> None:
        """Return when the copies under way are complete: see ``Repo.fence``."""
        self.repo.fence()

    def wait(self, timeout: float | None = None) -> bool:
        """Until every snapshot is durable or has failed; False after ``timeout`` seconds. Raises like ``save``."""
        done = self.repo.wait(timeout)
        self._retrying.raise_error()
        return done

    def close(self) -> None:
        """Wait for every snapshot, end the writer process, and put signal handlers and hooks back. Raises like
        ``save``. After a second Ctrl-C, or one while it waits, nothing is waited for: the writer finishes by itself."""
        self._supervised.closed()
        try:
            self._watch.ending()
            self.repo.close(timeout=0 if self._watch.engine.in_haste else None)
        finally:
            self._watch.close()
            if self._exporter is not None:
                self._exporter.close()
        self._retrying.raise_error()

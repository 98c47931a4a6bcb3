"""``Repo``: the git-like verbs over one repository."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from ciuic.errors import (
    DamageError,
    NotARepository,
    RepositoryExists,
    StorageError,
    UnknownPath,
)
from ciuic.history import branches
from ciuic.history.branches import ReflogEntry
from ciuic.history.following import Following
from ciuic.history.graph import ancestors
from ciuic.history.revisions import Resolved, resolve, resolve_whole
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Plain, StateNode
from ciuic.saving import Saving, details_of, no_collection
from ciuic.store.refs import HEADS, TAGS, WHOLE, Head
from ciuic.store.store import Store

if TYPE_CHECKING:
    from ciuic.background import Priority, WhenBusy
    from ciuic.doctor import Finding
    from ciuic.history.bisect import Bisection
    from ciuic.history.diff import Diff
    from ciuic.history.notes import Note
    from ciuic.history.statistics import Stats
    from ciuic.retention import AnyPolicy
    from ciuic.retention.review import Review
    from ciuic.state.lazy import Device, LazyState
    from ciuic.state.plan import KeyFilter
    from ciuic.store.fsck import FsckReport, Progress
    from ciuic.store.gc import GcReport
    from ciuic.store.rebasing import RepackReport
    from ciuic.store.repair import RepairReport
    from ciuic.store.verification import Budget
    from ciuic.writer.pending import PendingSnapshot


class Repo:
    """A repository of snapshots. Opening it reads HEAD once; commits follow the branch found there.

    Every method raises ``ciuic.CiuicError`` or a child of it. Methods may be called from several threads and
    processes; commits of one object publish in call order. Snapshots taken with ``wait=False`` are written by a
    process of their own, which ``close()`` or leaving a ``with`` block ends; a program's end does it too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        slots: int = 2,
        priority: Priority = "normal",
        writer_timeout: float = 30.0,
        retention: Sequence[AnyPolicy | str] | None = None,
    ) -> None:
        """Open an existing repository; NotARepository, UnsupportedFormat otherwise.

        For ``wait=False``: ``slots`` copies of the state may wait in memory at a time; ``priority`` "low" gives the
        writer what the CPU and the disk have to spare; a writer without a sign of life for ``writer_timeout`` seconds
        (or without progress for ten times that) is killed and started anew, up to three times a snapshot.

        ``retention``: policies that hold after each commit of this object, as objects or texts (``KeepLast(20)``,
        "keep-last=20"); None for those of ``[retention]`` in config.toml, an empty list for none.
        """
        policies = None if retention is None else _policy_texts(retention)
        self._store = Store(os.fspath(path))
        self._following = Following(self._store)
        self._saving = Saving(
            self._store, self._following, slots=slots, priority=priority, timeout=writer_timeout, retention=policies
        )
        self._checked: tuple[str, int] | None = None  # a snapshot, and the generation in which all of it was read
        self.path = self._store.path
        if "torch" in sys.modules:
            from ciuic.state.gradients import watch

            watch()

    def __repr__(self) -> str:
        return f"Repo({self.path!r})"

    def __enter__(self) -> Repo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def init(path: str | os.PathLike[str], *, chunk_size: int | None = None, **options: Any) -> Repo:
        """Make a repository in a new or empty folder (durable on return) and open it; RepositoryExists if it is one.

        ``chunk_size``: bytes, 1 MiB by default. ``options``: those of ``Repo``.
        """
        Store.create(os.fspath(path), chunk_size=chunk_size)
        return Repo(path, **options)

    @staticmethod
    def open(path: str | os.PathLike[str], create: bool = False, **options: Any) -> Repo:
        """Open a repository; with ``create`` make it first if there is none. ``options``: as for ``Repo``."""
        try:
            return Repo(path, **options)
        except NotARepository:
            if not create:
                raise
        with contextlib.suppress(RepositoryExists):  # another process was faster
            Store.create(os.fspath(path))
        return Repo(path, **options)

    # Saving

    @overload
    def commit(
        self, model: Any = ..., optimizer: Any = ..., *, wait: Literal[True] = ..., **details: Any
    ) -> Snapshot: ...

    @overload
    def commit(
        self, model: Any = ..., optimizer: Any = ..., *, wait: Literal[False], **details: Any
    ) -> PendingSnapshot: ...

    def commit(  # type: ignore[misc]  # the overloads leave the other keywords to this signature
        self,
        model: Any = None,
        optimizer: Any = None,
        *,
        step: int | None = None,
        epoch: int | None = None,
        message: str = "",
        scheduler: Any = None,
        scaler: Any = None,
        extra: dict[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        config: Mapping[str, Plain] | None = None,
        data: Any = None,
        rng: bool = True,
        wait: bool = True,
        when_busy: WhenBusy = "wait",
        busy_timeout: float | None = None,
    ) -> Snapshot | PendingSnapshot:
        """Save a snapshot; on return it is durable and the branch points to it. On any error the branch is as it was.

        ``model``, ``optimizer``, ``scheduler`` and ``scaler`` are each one object with ``state_dict`` and
        ``load_state_dict``, or a list or dict of them. ``extra`` names further objects and plain values. ``metrics``
        are numbers (0-d tensors too). ``data`` is the position in the data, as SnapshotManager notes it. The random
        states of torch, accelerators, numpy and Python go in unless ``rng`` is false; gradients only while they are
        being accumulated. A process that lost a race for the branch, or restored an older snapshot, goes on on a new
        branch and logs a warning that names it.
        Raises UnsupportedState, naming the path of what cannot be stored; StorageFull, ReadOnlyStorage, StorageError.

        ``wait=False`` returns in milliseconds a PendingSnapshot: what only a step of ``optimizer`` changes is copied
        while training goes on, the next step of any torch optimizer waits for what is left of the copy, and another
        process stores it. Change such state in any other way (by hand, ``load_state_dict``, an optimizer that
        bypasses torch's hooks) only after ``fence()``. With every slot in use it waits for one (at most
        ``busy_timeout`` seconds, if given), or with ``when_busy="skip"`` does not; what is skipped ends as
        SnapshotSkipped. Only UnsupportedState is raised at once; a later failure is logged, counted in ``counts``
        and raised by the PendingSnapshot.
        """
        from ciuic.state.capture import capture_state
        from ciuic.state.gradients import watch

        began = time.perf_counter()
        watch()
        with no_collection() if not wait else contextlib.nullcontext():
            captured = capture_state(
                model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, extra=extra, rng=rng,
                data=data,
            )  # fmt: skip
            details = details_of(captured.contains, step, epoch, message, metrics, config)
            if not wait:
                return self._saving.commit_later(
                    captured.components, details, model, optimizer,
                    when_busy=when_busy, busy_timeout=busy_timeout, began=began,
                )  # fmt: skip
        return self._saving.commit(captured.components, details)

    def commit_components(
        self,
        components: Mapping[str, StateNode],
        contains: tuple[str, ...],
        *,
        step: int | None = None,
        epoch: int | None = None,
        message: str = "",
        metrics: Mapping[str, Any] | None = None,
        config: Mapping[str, Plain] | None = None,
    ) -> Snapshot:
        """``commit`` for state trees that somebody else has made, an import for example."""
        return self._saving.commit(components, details_of(contains, step, epoch, message, metrics, config))

    def prepare(self, model: Any = None, optimizer: Any = None, **objects: Any) -> None:
        """Make memory ready for ``commit(wait=False)`` of these objects, and start the writer process.

        Takes about half a second a GB and slot. Without it the first snapshots do it beside training. The state that
        an optimizer makes in its first step is forecast. Takes ``scheduler``, ``scaler`` and ``extra``, too.
        """
        from ciuic.state.capture import capture_state
        from ciuic.state.forecast import coming_bytes

        given = {"model": model, "optimizer": optimizer, "scheduler": None, "scaler": None, "extra": None, **objects}
        captured = capture_state(**given, rng=True)
        self._saving.prepare(captured.components, coming_bytes(optimizer))

    def fence(self) -> None:
        """Return when the copies ordered by ``commit(wait=False)`` are complete: any state may be changed now."""
        self._saving.fence()

    def wait(self, timeout: float | None = None) -> bool:
        """Until every snapshot taken with ``wait=False`` is durable or has failed; False after ``timeout`` seconds."""
        return self._saving.wait(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Wait for every snapshot, end the writer process, free the slots. The object can be used again.

        After ``timeout`` seconds (ten minutes without one) a writer that is still at work is left to finish by itself.
        """
        self._saving.close(timeout)

    @property
    def counts(self) -> dict[str, int]:
        """How the snapshots taken with ``wait=False`` went.

        Published, unchanged (the same state as the parent's), torn, skipped, failed; retries of a write, and deaths
        and stalls of the writer.
        """
        from ciuic.background import COUNTED

        return {name: self._saving.counts[name] for name in COUNTED}

    @property
    def tip(self) -> str | None:
        """Hex id of the newest durable snapshot of the line that this object follows: the next one's parent."""
        return self._following.position.parent

    def await_earlier_run(self) -> None:
        """Wait for what the writer of a run that has died still has to publish, and follow the branch with it.

        ``restore``, ``checkout`` and ``SnapshotManager`` do it by themselves. After two minutes it warns and goes on.
        """
        from ciuic.writer import orphans

        if orphans.wait(self.path, self._store.fs):
            with self._following.moving:
                self._following.head_moved()

    @property
    def busy(self) -> bool:
        """Whether ``commit(wait=False)`` would find every slot in use now."""
        return self._saving.busy

    # Going back

    def checkout(
        self,
        revision: str | Snapshot,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        extra: dict[str, Any] | None = None,
        strict: bool = True,
        keys: KeyFilter = None,
        rng: bool | None = None,
    ) -> Snapshot:
        """Restore in place as ``restore`` does, then move HEAD: a branch's name attaches it, anything else detaches it.

        The generators come back with an optimizer, or when ``rng`` is true.
        """
        objects = _objects(model, optimizer, scheduler, scaler, extra)
        self.await_earlier_run()
        with self._saving.settled(), self._store.shared(), self._offering(revision):
            resolved = self._resolve(revision)
            if rng or any(value is not None for value in objects.values()):
                wanted = rng if rng is not None else (None if optimizer is not None else False)
                self._restore(resolved.snapshot, objects, strict=strict, keys=keys, rng=wanted)
            self._move_head(resolved, _said(revision, resolved.snapshot))
        return resolved.snapshot

    def restore(
        self,
        revision: str | Snapshot,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        extra: dict[str, Any] | None = None,
        strict: bool = True,
        keys: KeyFilter = None,
        rng: bool | None = None,
    ) -> Snapshot:
        """Bring live objects to a snapshot's state, in place; HEAD stays, and the next commit's parent is the snapshot.

        First every stored byte is checked and everything is matched: StateMismatch, DamagedData, MissingObject and
        Pruned change nothing; damage is told with the newest intact snapshot of the branch (``error.intact``, an id). A
        later failure is RestoreInterrupted. Optimizer state is matched by parameter name,
        keeps its stored dtype, and follows its parameter's device, also when the model moves afterwards.
        ``strict=False`` restores what fits and logs the rest; ``keys`` is a glob, several, or a function over paths
        such as "model/layers.0.weight". Random generators come back unless ``rng`` is false.
        """
        objects = _objects(model, optimizer, scheduler, scaler, extra)
        self.await_earlier_run()
        with self._saving.settled(), self._store.shared(), self._offering(revision):
            resolved = self._resolve(revision)
            self._restore(resolved.snapshot, objects, strict=strict, keys=keys, rng=rng)
            self._following.restored(resolved.snapshot, resolved.branch)
        return resolved.snapshot

    def _restore(
        self, snapshot: Snapshot, objects: dict[str, Any], *, strict: bool, keys: KeyFilter, rng: bool | None
    ) -> None:
        from ciuic.restore.checking import check
        from ciuic.restore.filling import fill
        from ciuic.restore.stored_snapshot import StoredSnapshot
        from ciuic.state.restoring import restore_state

        stored = StoredSnapshot(self._store, snapshot)

        def component(name: str) -> StateNode | None:
            # What was not asked for by name is no reason to refuse the rest.
            unasked = name == "gradients" or (name == "rng" and rng is None)
            return None if unasked and name in stored.pruned else stored.component(name)

        # What newest_intact has just read need not be read once more before; ids are compared in any case.
        checked, self._checked = self._checked == (snapshot.id, self._store.generation), None
        restore_state(
            component, objects, strict=strict, keys=keys, rng=rng, check=_nothing if checked else check, filler=fill
        )

    @contextlib.contextmanager
    def _offering(self, revision: str | Snapshot) -> Iterator[None]:
        """Damage comes out with the newest intact snapshot. Under the shared lock."""
        try:
            yield
        except (DamageError, StorageError) as error:
            from ciuic.history.intact import offering

            raise offering(self._store, error, revision) from error

    def newest_intact(self, revision: str = "HEAD") -> Snapshot | None:
        """The newest snapshot of a line of which every byte is as it was: all of it is read. None without any snapshot.

        One whose state, model or optimizer was pruned is passed over; one that is damaged, too, with a warning in the
        log. Where all are damaged, the first one's error is raised: a run must not begin anew without anybody knowing.
        A restore of the snapshot, right after this, does not read it a second time before it begins.
        """
        from ciuic.history.intact import newest_intact

        with self._store.shared():
            intact = newest_intact(self._store, revision)
            self._checked = None if intact is None else (intact.id, self._store.generation)
        return intact

    def load(self, revision: str | Snapshot, *, map_location: Device = "cpu") -> LazyState:
        """A snapshot's state as nested mappings, lazily: ``load(r)["model"]["layers.0.weight"]`` reads that tensor.

        Tensors are new, verified, of their stored dtype, on the device ``map_location``. A part of one, without
        reading the rest: ``load(r)["model"].get_slice("layers.0.weight")[10:20]``. Stays readable while gc runs.
        """
        from ciuic.restore.stored_snapshot import StoredSnapshot
        from ciuic.state.lazy import LazyState

        with self._store.shared():
            stored = StoredSnapshot(self._store, self._resolve(revision).snapshot)
            return LazyState(stored.snapshot.tree, stored.components(), stored.component, map_location)

    def components(self, revision: str | Snapshot) -> dict[str, StateNode]:
        """The state trees of a snapshot by component, without those that were pruned; Pruned when it was whole."""
        from ciuic.restore.stored_snapshot import StoredSnapshot

        with self._store.shared():
            return StoredSnapshot(self._store, self._resolve(revision).snapshot).components()

    # Looking

    def resolve(self, revision: str | Snapshot) -> Snapshot:
        """The snapshot that a revision names; UnknownRevision or AmbiguousRevision otherwise."""
        with self._store.shared():
            return self._resolve(revision).snapshot

    def find(self, revision: str) -> Resolved:
        """What a revision names: its snapshot, its branch if it is a branch's name, and the path after its colon."""
        with self._store.shared():
            return resolve(self._store, revision)

    def _resolve(self, revision: str | Snapshot) -> Resolved:
        """Under the shared lock."""
        return resolve_whole(self._store, revision)

    def log(self, revision: str | None = None, limit: int | None = None) -> Iterator[Snapshot]:
        """A snapshot and its ancestors, newest first; by default from HEAD, and none in a new repository."""
        with self._store.shared():
            if revision is None:
                tip = self._store.refs.head().snapshot
                tips = [] if tip is None else [tip]
            else:
                tips = [self._resolve(revision).snapshot.id]
            return iter(_first(ancestors(self._store, tips), limit))

    def log_all(self, limit: int | None = None) -> Iterator[Snapshot]:
        """Every snapshot that a branch, a tag or HEAD reaches, newest first."""
        with self._store.shared():
            head = self._store.refs.head().snapshot
            tips = [*self.branches().values(), *self.tags().values(), *([head] if head else [])]
            return iter(_first(ancestors(self._store, tips), limit))

    def diff(
        self,
        a: str | Snapshot,
        b: str | Snapshot,
        *,
        path: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> Diff:
        """What changed from ``a`` to ``b``: hyper-parameters, metrics, keys, and each tensor in numbers.

        ``path`` limits it to what lies below, for example "model/layers.0". ``progress`` gets (done, total) bytes.
        """
        from ciuic.history.diff import diff_states

        with self._store.shared():
            first, second = self._resolve(a).snapshot, self._resolve(b).snapshot
            trees = self.components(first), self.components(second)
        return diff_states(first, second, *trees, path=path, progress=progress)

    def bisection(self) -> Bisection:
        """The search for the first bad snapshot: begun, answered and read; see ``ciuic bisect``."""
        from ciuic.history.bisect import Bisection

        return Bisection(self._store)

    def stats(self) -> Stats:
        """What the repository holds, and what storing things once and coding them has saved."""
        from ciuic.history.statistics import statistics

        return statistics(self._store)

    def settings(self, table: Literal["retention", "triggers"]) -> Mapping[str, Any]:
        """A table of ``config.toml`` as plain values, without a look at what they mean."""
        settings: Mapping[str, Any] = getattr(self._store.config, table)
        return settings

    # Notes

    def note(self, revision: str | Snapshot, text: str) -> Note:
        """Write a note on a snapshot, at most 4096 bytes of UTF-8: durable on return. Its id stays. InvalidNote."""
        from ciuic.history import notes

        with self._store.shared():
            return notes.add(self._store, self._resolve(revision).snapshot.id, text)

    def notes(self) -> dict[str, tuple[Note, ...]]:
        """Hex id → the notes on each snapshot that has any, oldest first."""
        from ciuic.history import notes

        with self._store.shared():
            return notes.listing(self._store)

    def delete_note(self, revision: str | Snapshot, key: str) -> None:
        """Take back the note of this key, durable on return; InvalidNote when the snapshot has none of it."""
        from ciuic.history import notes

        with self._store.shared():
            notes.drop(self._store, self._resolve(revision).snapshot.id, key)

    # Refs

    def branches(self) -> dict[str, str]:
        """Branch → hex id."""
        return self._store.refs.listing(HEADS)

    def tags(self) -> dict[str, str]:
        """Tag → hex id."""
        return self._store.refs.listing(TAGS)

    def head(self) -> Head:
        """Where the next run resumes."""
        return self._store.refs.head()

    def branch(self, name: str, at: str | Snapshot = "HEAD") -> None:
        """Make a branch, durable on return; RefExists, InvalidRefName."""
        self._create(HEADS, name, at)

    def tag(self, name: str, at: str | Snapshot = "HEAD") -> None:
        """Make a tag, durable on return; RefExists, InvalidRefName."""
        self._create(TAGS, name, at)

    def _create(self, prefix: str, name: str, at: str | Snapshot) -> None:
        with self._store.shared():
            snapshot = self._resolve(at).snapshot
            branches.create(self._store, prefix, name, snapshot.id, _said(at, snapshot))

    def delete_branch(self, name: str) -> None:
        """Delete a branch; its log keeps what it reached until it expires. UnknownRef."""
        with self._store.shared():
            branches.delete(self._store, HEADS, name)

    def delete_tag(self, name: str) -> None:
        """Delete a tag; its log keeps what it reached until it expires. UnknownRef."""
        with self._store.shared():
            branches.delete(self._store, TAGS, name)

    def switch(self, revision: str | Snapshot) -> Snapshot | None:
        """Move HEAD, where the next run resumes: a branch's name attaches it, anything else detaches it.

        Returns the snapshot there; None for the first branch of an empty repository.
        """
        with self._saving.settled(), self._store.shared():
            if isinstance(revision, str) and revision == self._store.refs.head().branch:
                self._following.head_moved()
                return self.resolve(revision) if self._store.refs.value(HEADS + revision) else None
            resolved = self._resolve(revision)
            self._move_head(resolved, _said(revision, resolved.snapshot))
        return resolved.snapshot

    def _move_head(self, resolved: Resolved, said: str) -> None:
        origin = self._store.refs.head().branch
        branches.move_head(self._store, resolved.branch, resolved.snapshot.id, said)
        self._following.head_moved(origin)

    def reset(
        self, revision: str | Snapshot, *, branch: str | None = None, dry_run: bool = False
    ) -> tuple[str | None, str]:
        """Move a branch (HEAD's by default; a detached HEAD itself); its reflog keeps the old tip. (old, new) ids."""
        with self._saving.settled(), self._store.shared():
            snapshot = self._resolve(revision).snapshot
            name = branch or self._store.refs.head().branch
            old = branches.reset(self._store, name, snapshot.id, _said(revision, snapshot), dry_run=dry_run)
            if not dry_run:
                self._following.head_moved() if name is None else self._following.reset(name, snapshot.id)
        return old, snapshot.id

    def reflog(self, ref: str = "HEAD") -> list[ReflogEntry]:
        """The changes of HEAD, a branch (a deleted one too) or a tag, newest first; UnknownRef."""
        with self._store.shared():
            return branches.reflog(self._store, ref)

    # Upkeep

    def prune(self, revision: str | Snapshot, component: str | None = None) -> None:
        """Give up a snapshot's state, or one component of it: durable on return, final, and freed by the next gc.

        The snapshot keeps its place in the log, with its step and metrics.
        """
        with self._store.shared():
            snapshot = self._resolve(revision).snapshot
            if component is not None and component not in snapshot.tree:
                raise UnknownPath(
                    f"{snapshot.named} has no component {component!r}; it has {', '.join(snapshot.tree)}."
                )
            gone = self.prune_state(snapshot.id)
            if WHOLE not in gone and (component or WHOLE) not in gone:
                self._store.refs.prune(snapshot.id, component)

    def prune_by(self, policies: Sequence[AnyPolicy | str] | None = None, *, dry_run: bool = False) -> Review:
        """Give up what retention policies let go, those of config.toml by default: durable on return, freed by the next
        gc. ``dry_run`` only says what would go, why the rest stays, and what gc would free then.

        Tags, the tips of branches, HEAD and the newest intact snapshot of each branch always stay. ValueError for what
        is no policy, and without any.
        """
        from ciuic.retention.review import review
        from ciuic.retention.texts import policies_in, policies_of

        given = policies_in(self._store.config.retention) if policies is None else policies_of(policies)
        if not given:
            raise ValueError(
                "There is no policy. Give one, such as keep-last=20, or write it below [retention] in config.toml."
            )
        return review(self._store, given, dry_run=dry_run)

    def prunes(self) -> dict[str, frozenset[str]]:
        """Hex id → the components that were pruned of each snapshot that lost any; {"*"} for all of it."""
        return self._store.refs.prunes()

    def prune_state(self, snapshot_id: str) -> frozenset[str]:
        """The components of a snapshot that were pruned; {"*"} for all of it."""
        return self.prunes().get(snapshot_id, frozenset())

    def gc(self, *, dry_run: bool = False, expire: timedelta | None = None, trust_clock: bool = False) -> GcReport:
        """Free what no branch, tag, HEAD or unexpired log record needs.

        ``expire`` forgets log records older than that first (zero: all but each log's newest), instead of the
        configured 90 days with the newest 100 records kept. Killed at any moment, nothing that is needed is lost.
        """
        from ciuic.store.gc import collect

        return collect(self._store, dry_run=dry_run, expire=expire, trust_clock=trust_clock)

    def repack(self, flatten: str | Snapshot | None = None, *, dry_run: bool = False) -> RepackReport:
        """Do at once what gc does when there is enough to gain: encode anew the chunks that rest on what is kept for
        them alone, and rewrite each pack that holds anything dead. Log records stay, whatever their age.

        ``flatten`` makes that snapshot self-contained instead: each of its chunks gets a copy that rests on no other.
        It takes more room and is restored faster; what only it rested on goes with the next gc.
        """
        if flatten is None:
            from ciuic.store.gc import repack

            return repack(self._store, dry_run=dry_run)
        from ciuic.store.flattening import flatten as flatten_snapshot

        with self._store.shared():
            return flatten_snapshot(self._store, self._resolve(flatten).snapshot.id)

    def fsck(self, *, read_data: bool | str | Budget = False, progress: Progress | None = None) -> FsckReport:
        """Check logs, packs, snapshots and trees, with ``read_data`` every stored byte too; with "5%", "10GiB" or "10m"
        (minutes) so much of it, the packs that were read longest ago first. Changes nothing but the memory of that.
        """
        from ciuic.store.fsck import check
        from ciuic.store.verification import budget_of

        return check(self._store, read_data=budget_of(read_data), progress=progress)

    def repair(self, *, dry_run: bool = False, progress: Progress | None = None) -> RepairReport:
        """Save what is intact in damaged packs and logs, set these aside in ``quarantine/``, and say what is lost.

        ``dry_run`` only says what it would do. Nothing is deleted, and no snapshot given up; killed at any moment, it
        can be run again. Raises StorageFull, with nothing moved, when there is no room for what is saved.
        """
        from ciuic.store.repair import repair

        return repair(self._store, dry_run=dry_run, progress=progress)

    def doctor(self) -> list[Finding]:
        """What a run depends on here: disk, locks, memory, the repository, and what would end the writer with it."""
        from ciuic.doctor import examine

        return list(examine(self._store))


def _policy_texts(policies: Sequence[AnyPolicy | str]) -> list[str]:
    """How they travel; ValueError for what is none."""
    from ciuic.retention.texts import policies_of

    return [policy.text for policy in policies_of(policies)]


def _said(revision: str | Snapshot, snapshot: Snapshot) -> str:
    """What a log remembers of a revision."""
    return revision if isinstance(revision, str) else short(snapshot.id)


def _first(snapshots: Iterator[Snapshot], limit: int | None) -> list[Snapshot]:
    from itertools import islice

    return list(islice(snapshots, limit))


def _objects(model: Any, optimizer: Any, scheduler: Any, scaler: Any, extra: Any) -> dict[str, Any]:
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "extra": extra}


def _nothing(_sources: Any) -> None:
    """In place of a check that has been made."""

"""gc, repack and flatten where chunks rest on one another: nothing is lost, and little is kept for others' sake."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from chained import Records, State
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ministore import Trainer

from ciuic.errors import DamagedData, MissingObject, Pruned
from ciuic.objects.ids import Kind, digest
from ciuic.store.flattening import flatten
from ciuic.store.fsck import check
from ciuic.store.gc import collect, repack
from ciuic.store.marking import Marks
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RECORD_LENGTH, FooterRow
from ciuic.store.reflog import NOTHING

NOW = timedelta(0)


class History:
    """Snapshots of chained states, and what each of them holds."""

    def __init__(self, trainer: Trainer, seed: int = 0) -> None:
        self.trainer = trainer
        self.records = Records(trainer, seed)
        self.states: dict[str, State] = {}
        self.tips: dict[str, State] = {}

    def commit(self, branch: str = "main", on: State | None = None) -> str:
        """The next state of a branch; ``on``: of a new one, what it starts from."""
        before = self.tips.get(branch, on)
        state = self.records.first() if before is None else self.records.next(before)
        self.records.write(state, before)
        self.tips[branch] = state
        snapshot = self.trainer.commit_to(branch, state.named())
        self.states[snapshot] = state
        return snapshot

    def prune(self, snapshot: str, component: str | None = None) -> None:
        with self.trainer.store.shared():
            self.trainer.store.refs.prune(snapshot, component)
        del self.states[snapshot]

    def check(self) -> None:
        """Every snapshot that was not pruned reads bit for bit, in a view of its own, and fsck is content."""
        view = Trainer(self.trainer.store.path)
        for snapshot, state in self.states.items():
            assert view.load(snapshot) == state.named()
        report = check(view.store, read_data=True)
        assert report.ok, report.problems


def rows(trainer: Trainer) -> list[tuple[Path, FooterRow]]:
    return [
        (path, row)
        for path in trainer.packs()
        for row in Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).rows
    ]


def stored_bytes(trainer: Trainer) -> int:
    return sum(row.header.stored_length for _, row in rows(trainer))


def marked(trainer: Trainer) -> Marks:
    with trainer.store.shared():
        store = trainer.store
        marks = Marks(store, store.refs.prunes(), {})
        marks.walk(
            value for value in map(store.refs.value, store.refs.names()) if value is not None and value != NOTHING
        )
        return marks


def assert_small(trainer: Trainer) -> None:
    """All there is takes at most a tenth more than what live trees name."""
    needed = marked(trainer).needed_bytes
    assert stored_bytes(trainer) <= 1.1 * needed


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""These tests stop no machine, and sync thousands of times."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture
def history(folder: Path) -> History:
    return History(Trainer.create(folder / "repo"))


def test_bases_of_a_live_chunk_live(history: History) -> None:
    """What was pruned stays as far as others rest on it, and the report says how much that is."""
    snapshots = [history.commit() for _ in range(6)]
    history.prune(snapshots[4])
    dry = collect(history.trainer.store, dry_run=True)
    assert dry.resting_bytes == marked(history.trainer).resting_bytes > 0
    collect(history.trainer.store)
    history.check()


def test_repack_leaves_nothing_that_only_rests(history: History) -> None:
    """Of a long chain one snapshot is kept: after a repack its bytes are all that is stored."""
    for _ in range(12):
        last = history.commit()
    for snapshot in set(history.states) - {last}:
        history.prune(snapshot)
    report = repack(history.trainer.store)
    assert report.chunks > 0
    assert report.gc is not None
    assert report.gc.resting_bytes == 0
    history.check()
    marks = marked(history.trainer)
    assert marks.resting_bytes == 0
    assert stored_bytes(history.trainer) <= 1.02 * marks.needed_bytes
    repack(history.trainer.store)  # merges the packs that the first one wrote
    again = repack(history.trainer.store)
    assert (again.chunks, again.gc and again.gc.repacked_packs) == (0, 0)


def test_gc_rebases_by_itself(history: History) -> None:
    """Retention frees bytes: with two of three snapshots pruned, a gc leaves little that none of the rest needs."""
    snapshots = [history.commit() for _ in range(30)]
    before = stored_bytes(history.trainer)
    for number, snapshot in enumerate(snapshots):
        if number % 3:
            history.prune(snapshot)
    report = collect(history.trainer.store)
    assert report.rebased > 0
    history.check()
    assert_small(history.trainer)
    assert stored_bytes(history.trainer) < before


def test_little_that_rests_is_left_alone(history: History) -> None:
    """Below a tenth nothing is encoded anew."""
    snapshots = [history.commit() for _ in range(30)]
    history.prune(snapshots[7])
    report = collect(history.trainer.store)
    assert report.rebased == 0
    assert report.resting_bytes < 0.1 * marked(history.trainer).needed_bytes
    history.check()


def test_branches_from_a_pruned_snapshot(history: History) -> None:
    """Where several branches rest on one pruned chunk, one stands alone and the others rest on it."""
    first = history.commit()
    start = history.states[first]
    for number in range(5):
        for _ in range(2):
            history.commit(f"b{number}", start)
    history.prune(first)
    history.trainer.set("main", NOTHING)
    collect(history.trainer.store, expire=NOW)
    repack(history.trainer.store)
    assert marked(history.trainer).resting_bytes == 0
    history.check()


def test_depths_shrink_only(history: History) -> None:
    """No chunk gets deeper than it was, and each base is less deep than what rests on it."""
    snapshots = [history.commit() for _ in range(25)]
    for snapshot in snapshots[::2]:
        history.prune(snapshot)
    repack(history.trainer.store)
    depths: dict[bytes, int] = {}
    for _, row in rows(history.trainer):
        if row.header.kind is Kind.CHUNK:
            depths[row.header.id] = min(row.header.depth, depths.get(row.header.id, 255))
    assert all(depth <= history.records.depths[id] for id, depth in depths.items())
    copies = marked(history.trainer).copies
    for _, row in rows(history.trainer):
        for base in copies.bases(row.header):
            assert depths[base] < row.header.depth
    history.check()


def test_flatten(history: History) -> None:
    """A flattened snapshot rests on nothing, others go on resting on it, and gc frees what only it needed."""
    snapshots = [history.commit() for _ in range(8)]
    report = flatten(history.trainer.store, snapshots[5])
    assert report.chunks > 0
    assert report.flattened == snapshots[5]
    history.check()
    trainer = Trainer(history.trainer.store.path)
    with trainer.store.shared():
        marks = Marks(trainer.store, {}, {})
        for raw in history.states[snapshots[5]]:
            assert marks.copies.find(digest(raw), Kind.CHUNK).header.depth == 0
    assert flatten(trainer.store, snapshots[5]).chunks == 0
    for snapshot in snapshots[:5]:
        history.prune(snapshot)
    collect(history.trainer.store)
    assert marked(history.trainer).resting_bytes == 0
    history.check()


def test_flatten_what_was_pruned(history: History) -> None:
    """A snapshot without its state cannot be made self-contained, and that is said."""
    snapshot = history.commit()
    history.prune(snapshot)
    with pytest.raises(Pruned):
        flatten(history.trainer.store, snapshot)


# Damage


def lose_the_index(trainer: Trainer) -> Trainer:
    for name in ("data.mdb", "stamp"):
        os.unlink(trainer.store.join("index", name))
    return Trainer(trainer.store.path)


def spoil(path: Path, row: FooterRow) -> None:
    data = bytearray(path.read_bytes())
    data[row.offset + RECORD_LENGTH + row.header.stored_length // 2] ^= 1
    path.write_bytes(data)


def a_base(history: History, *, recipe: bool = False) -> tuple[Path, FooterRow, bytes]:
    """The record of a chunk or of a recipe that a snapshot's chunk rests on, and that chunk."""
    by_id = {row.header.id: (path, row) for path, row in rows(history.trainer)}
    copies = marked(history.trainer).copies
    for raw in (raw for state in reversed(history.states.values()) for raw in state):
        _, row = by_id[digest(raw)]
        if row.header.depth and copies.has_recipe(row.header) == recipe:
            return *by_id[row.header.base], row.header.id
    raise AssertionError("no such record")


def test_unreadable_recipe_stops_gc(history: History) -> None:
    """Without a recipe gc cannot know what a chunk rests on: it ends, and nothing was deleted."""
    for _ in range(10):
        history.commit()
    path, row, _ = a_base(history, recipe=True)
    spoil(path, row)
    before = sorted(history.trainer.packs())
    for action in (collect, repack):
        with pytest.raises(DamagedData):
            action(Trainer(history.trainer.store.path).store)
    assert sorted(history.trainer.packs()) == before


def test_missing_base_stops_gc(history: History) -> None:
    """A base that is in no pack means that something is wrong: nothing is deleted."""
    snapshots = [history.commit() for _ in range(4)]
    history.prune(snapshots[-2])
    path, _, _ = a_base(history)
    path.unlink()
    before = sorted(history.trainer.packs())
    with pytest.raises((MissingObject, DamagedData)):
        collect(Trainer(history.trainer.store.path).store)
    assert sorted(history.trainer.packs()) == before


def test_damaged_base_is_not_laundered(history: History) -> None:
    """What rests on a damaged chunk is not encoded anew; the damaged pack goes to quarantine, and the rest is safe."""
    snapshots = [history.commit() for _ in range(12)]
    path, row, _ = a_base(history)
    lost = {
        snapshot
        for snapshot, state in history.states.items()
        if any(row.header.id in chain(history, digest(raw)) for raw in state)
    }
    spoil(path, row)
    for snapshot in snapshots[:-1]:
        if snapshot in lost:
            continue
        history.prune(snapshot)
    trainer = Trainer(history.trainer.store.path)
    report = repack(trainer.store)
    assert report.gc is not None
    assert report.gc.quarantined == (path.stem,)
    assert not path.exists()
    with pytest.raises(MissingObject, match="prune"):
        collect(trainer.store)
    for snapshot in lost:
        history.prune(snapshot)
    collect(trainer.store)
    history.check()


def chain(history: History, id: bytes) -> set[bytes]:
    """Everything that a chunk rests on, and itself."""
    copies = marked(history.trainer).copies
    stack, found = [copies.find(id, Kind.CHUNK)], set()
    while stack:
        row = stack.pop()
        if row.header.id not in found:
            found.add(row.header.id)
            stack += copies.below(row.header)
    return found


@pytest.mark.parametrize("damaged_first", [True, False])
def test_the_intact_copy_of_a_base_stays(history: History, *, damaged_first: bool) -> None:
    """Of two copies of a base gc keeps one that can be read, whichever the index names."""
    for _ in range(5):
        history.commit()
    path, row, _ = a_base(history)
    pack = Pack(history.trainer.store.fs, str(path), path.stem, history.trainer.store.repository_id)
    session = history.trainer.store.new_packs()
    session.copy(*pack.stored(row.offset, row.header.stored_length))
    (copy,) = session.publish()
    other = Path(history.trainer.store.join("packs", f"{copy}.pack"))
    (spoiled,) = [
        (p, r) for p, r in rows(history.trainer) if r.header.id == row.header.id and (p == other) != damaged_first
    ]
    spoil(*spoiled)
    for _ in range(3):
        trainer = lose_the_index(history.trainer)
        trainer.tip()
        collect(trainer.store)
        for snapshot, state in history.states.items():
            assert trainer.load(snapshot) == state.named()


# Beside commits


def test_commit_between_rebasing_and_sweep(history: History) -> None:
    """A commit that rests on the old, deeper copy of a chunk can be read with the new one, and its bases stay."""
    for _ in range(10):
        history.commit()
    for snapshot in list(history.states)[:-1:2]:
        history.prune(snapshot)
    store = history.trainer.store
    exclusive = store.exclusive
    other = Trainer(store.path)

    @contextlib.contextmanager
    def interrupted(timeout_s: float) -> Iterator[None]:
        store.exclusive = exclusive  # type: ignore[method-assign]
        history.trainer = history.records.trainer = other
        for _ in range(3):
            history.commit()
        with exclusive(timeout_s):
            yield

    store.exclusive = interrupted  # type: ignore[assignment, method-assign]
    assert repack(store).chunks > 0
    history.check()


# Any order


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    phases=[Phase.generate],
)
@given(st.randoms(use_true_random=False), st.lists(st.sampled_from("cccccbpppgrfxk"), min_size=5, max_size=30))
def test_any_order(chance: random.Random, actions: list[str]) -> None:
    """Commits, branches, prunings, gc, repack, flatten and lost indexes in any order: what is not pruned is there."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        trainer = Trainer.create(folder + "/repo")
        history = History(trainer, chance.randrange(1000))
        history.commit()
        for action in actions:
            if action in "cb" or not history.states:
                branch = chance.choice("xyz") if action == "b" else "main"
                on = chance.choice(list(history.states.values())) if history.states else None
                history.commit(branch, on)
            elif action == "p":
                history.prune(chance.choice(list(history.states)))
            elif action == "g":
                collect(trainer.store)
            elif action == "r":
                repack(trainer.store)
            elif action == "f":
                flatten(trainer.store, chance.choice(list(history.states)))
            elif action == "x":
                Path(trainer.store.join("index", "stamp")).unlink(missing_ok=True)
            else:
                history.check()
        history.check()
        repack(trainer.store)
        history.check()


def test_five_hundred_snapshots(history: History) -> None:
    """500 snapshots on three branches, in every codec, through gc, retention, repack and flatten: each that was not
    pruned is there bit for bit, and what is stored is what they need and at most a tenth more.
    """
    trainer = history.trainer
    chance = random.Random(4)
    start = [history.commit() for _ in range(100)]
    forks = {branch: history.states[start[number]] for branch, number in (("left", 60), ("right", 80))}
    for number in range(400):
        branch = ("main", "left", "right")[number % 3]
        history.commit(branch, forks.get(branch))
        if number == 200:
            collect(trainer.store)
    assert history.records.codecs == {0, 1, 2, 3, 4, 5}
    report = collect(trainer.store)
    assert (report.snapshots, report.resting_bytes) == (500, 0)
    assert_small(trainer)
    for number, snapshot in enumerate(list(history.states)):
        if number % 10 and number < 450:
            history.prune(snapshot)
    report = collect(trainer.store)
    assert report.freed_bytes > 0
    assert_small(trainer)
    history.check()
    flatten(trainer.store, chance.choice(list(history.states)))
    for snapshot in chance.sample(list(history.states), 30):
        history.prune(snapshot)
    repack(trainer.store)
    assert_small(trainer)
    history.check()

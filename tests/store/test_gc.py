"""P4: gc frees what nothing needs, and nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from ministore import Trainer, noise, output, python

from ciuic.errors import (
    ClockDisagrees,
    DamagedData,
    DamagedRef,
    DamageError,
    MissingObject,
    StorageFull,
)
from ciuic.objects.ids import Kind, digest
from ciuic.store.expiry import read_logs
from ciuic.store.fs import FileSystem
from ciuic.store.fsck import check
from ciuic.store.gc import GcReport, collect
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RECORD_LENGTH
from ciuic.store.reflog import NOTHING, LogRecord, encode_record
from ciuic.store.refs import HEADS

NOW = timedelta(0)


def sweep(trainer: Trainer) -> GcReport:
    return collect(trainer.store, expire=NOW)


def drop(trainer: Trainer, branch: str) -> None:
    trainer.set(branch, NOTHING)


def files(root: str) -> dict[str, bytes]:
    """Every file that is not the index, which is no part of the truth."""
    return {
        os.path.relpath(os.path.join(folder, name), root): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(root)
        for name in names
        if os.path.relpath(folder, root).split(os.sep)[0] != "index"
    }


def test_nothing_to_do(trainer: Trainer) -> None:
    """A repository in use loses nothing and gains nothing."""
    snapshot = trainer.commit({"w": noise(1)})
    before = files(trainer.store.path)
    report = collect(trainer.store)
    assert (report.freed_bytes, report.freed_packs, report.repacked_packs) == (0, 0, 0)
    assert (report.snapshots, report.held_by_refs, report.held_by_reflog) == (1, 1, 0)
    after = files(trainer.store.path)
    assert {name for name in before if before[name] != after.get(name)} == {"generation"}
    assert trainer.load(snapshot) == {"w": noise(1)}


def test_frees_a_deleted_branch(trainer: Trainer) -> None:
    """What only a deleted branch had goes, once its log is forgotten; what is shared stays."""
    kept = trainer.commit({"shared": noise("shared"), "own": noise("kept")})
    trainer.commit_to("gone", {"shared": noise("shared"), "own": noise("gone", 50_000)})
    drop(trainer, "gone")
    assert collect(trainer.store).freed_bytes == 0  # its log record still holds it
    report = sweep(trainer)
    assert report.freed_bytes > 50_000
    assert trainer.load(kept) == {"shared": noise("shared"), "own": noise("kept")}
    assert sum(path.stat().st_size for path in trainer.packs()) == report.kept_bytes < 10_000
    assert os.listdir(trainer.store.join("trash")) == []
    assert trainer.store.refs.log(HEADS + "gone").read() == []
    assert check(trainer.store, read_data=True).ok


def test_dry_run(trainer: Trainer) -> None:
    """On trial nothing changes, and the forecast is what the real run then frees, to the framing of a pack or two."""
    trainer.commit({"w": noise("kept", 5000)})
    trainer.commit_to("gone", {"w": noise("gone", 50_000)})
    drop(trainer, "gone")
    before = files(trainer.store.path)
    forecast = collect(trainer.store, dry_run=True, expire=NOW)
    assert files(trainer.store.path) == before
    assert forecast.dry_run
    real = sweep(trainer)
    assert abs(forecast.freed_bytes - real.freed_bytes) < 2000
    assert forecast.expired_records == real.expired_records
    assert (forecast.snapshots, forecast.held_by_refs) == (real.snapshots, real.held_by_refs)


def test_the_same_bytes_after_gc(trainer: Trainer) -> None:
    """A chunk that was swept is stored again by the next commit that has it, by any process."""
    other = Trainer(trainer.store.path)
    trainer.commit_to("gone", {"w": noise("comes back")})
    drop(trainer, "gone")
    sweep(trainer)
    snapshot = other.commit_to("new", {"w": noise("comes back")})
    assert trainer.load(snapshot) == {"w": noise("comes back")}


def sparse(trainer: Trainer) -> str:
    """A pack of which only one small chunk is live."""
    trainer.commit_to("gone", {"small": noise("small"), "large": noise("large", 60_000)})
    kept = trainer.commit({"small": noise("small")})
    drop(trainer, "gone")
    return kept


def test_repack_of_a_sparse_pack(trainer: Trainer) -> None:
    """A pack that is mostly dead is copied into a small one, verified, and goes."""
    kept = sparse(trainer)
    report = sweep(trainer)
    assert (report.repacked_packs, report.freed_packs) == (1, 0)
    assert report.freed_bytes > 59_000
    for view in (trainer, Trainer(trainer.store.path)):
        assert view.load(kept) == {"small": noise("small")}
    assert check(trainer.store, read_data=True).ok


def test_repack_of_many_small_packs(trainer: Trainer) -> None:
    """Many small packs become one."""
    snapshots = [trainer.commit({"w": noise(number)}) for number in range(40)]
    report = collect(trainer.store)
    assert report.repacked_packs == 40
    assert len(trainer.packs()) == 1
    assert [trainer.load(snapshot) for snapshot in snapshots] == [{"w": noise(number)} for number in range(40)]
    assert collect(trainer.store).repacked_packs == 0


def test_full_disk(tmp_path: Path) -> None:
    """Where there is no room to repack, gc still frees whole packs; it used to fail when it was needed most."""

    class Full(FileSystem):
        full = False

        def write(self, descriptor: int, buffers: list[object], path: str) -> int:
            if self.full and "/pack-" in path:
                raise StorageFull(f"{path}: No space left on device.")
            return super().write(descriptor, buffers, path)

    fs = Full()
    trainer = Trainer.create(tmp_path / "repo", fs)
    kept = sparse(trainer)
    trainer.commit_to("whole", {"w": noise("whole", 30_000)})
    drop(trainer, "whole")
    fs.full = True
    report = sweep(trainer)
    assert (report.freed_packs, report.repacked_packs) == (1, 0)
    assert report.freed_bytes > 30_000
    fs.full = False
    assert sweep(trainer).repacked_packs == 1
    assert trainer.load(kept) == {"small": noise("small")}


class Small(FileSystem):
    """A disk that holds so many bytes of packs."""

    capacity = 1 << 40

    def write(self, descriptor: int, buffers: list[object], path: str) -> int:
        if "/pack-" in path:
            root = Path(path).parent.parent
            used = sum(each.stat().st_size for name in ("packs", "tmp", "trash") for each in (root / name).iterdir())
            if used + sum(len(memoryview(buffer).cast("B")) for buffer in buffers) > self.capacity:  # type: ignore[arg-type]
                raise StorageFull(f"{path}: No space left on device.")
        return super().write(descriptor, buffers, path)


def test_little_room(tmp_path: Path) -> None:
    """On a full disk most of every pack was pruned, but each held a small object that stays: gc freed nothing at all.

    There was no room to copy what lives in all of them at once. Now it copies as much as fits, sweeps, and goes on.
    """
    fs = Small()
    trainer = Trainer.create(tmp_path / "repo", fs)
    snapshots = [trainer.commit({"small": noise(number)}, large={"w": noise(number, 30_000)}) for number in range(12)]
    for snapshot in snapshots:
        with trainer.store.shared():
            trainer.store.refs.prune(snapshot, "large")
    fs.capacity = sum(path.stat().st_size for path in trainer.packs()) + 6000
    report = sweep(trainer)
    assert report.freed_bytes > 12 * 28_000
    assert report.repacked_packs >= 12
    assert [trainer.load(snapshot) for snapshot in snapshots] == [{"small": noise(number)} for number in range(12)]
    assert check(trainer.store, read_data=True).ok


def test_little_room_and_nothing_to_gain(tmp_path: Path) -> None:
    """Packs that were merged a few at a time, as many as there was room for, freed some bytes each: on a disk that was
    nearly full gc swept again and again for them, and the training waited for it. One sweep tells."""
    fs = Small()
    trainer = Trainer.create(tmp_path / "repo", fs)
    snapshots = [trainer.commit({"w": noise(number)}) for number in range(40)]
    fs.capacity = sum(path.stat().st_size for path in trainer.packs()) + 10_000
    generation = int(Path(trainer.store.join("generation")).read_text())
    collect(trainer.store)
    assert int(Path(trainer.store.join("generation")).read_text()) == generation + 1
    assert [trainer.load(snapshot) for snapshot in snapshots] == [{"w": noise(number)} for number in range(40)]


# Damage


def spoil(trainer: Trainer, id: bytes, path: Path) -> None:
    for row in Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).rows:
        if row.header.id == id:
            data = bytearray(path.read_bytes())
            data[row.offset + RECORD_LENGTH] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("no such record")


def holding(trainer: Trainer, id: bytes) -> list[Path]:
    return [
        path
        for path in trainer.packs()
        if id in Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).by_id
    ]


def test_damage_is_never_laundered(trainer: Trainer) -> None:
    """A damaged record of a pack that is repacked is not copied under a fresh checksum: the pack goes to quarantine."""
    kept = sparse(trainer)
    id = digest(noise("small"))
    (path,) = holding(trainer, id)
    spoil(trainer, id, path)
    report = sweep(trainer)
    assert report.quarantined == (path.stem,)
    (aside,) = os.listdir(trainer.store.join("quarantine"))
    assert aside.startswith(path.stem)
    assert holding(trainer, id) == []
    with pytest.raises(DamageError):
        trainer.load(kept)
    assert check(trainer.store).damaged_snapshots == (kept,)
    # gc says what to do about it, and pruning the snapshot is enough
    with pytest.raises(MissingObject, match="prune"):
        collect(trainer.store)
    with trainer.store.shared():
        trainer.store.refs.prune(kept, None)
    collect(trainer.store)
    assert check(trainer.store).ok
    assert trainer.commit({"small": noise("small")})
    assert check(trainer.store, read_data=True).ok


@pytest.mark.parametrize("damaged_first", [True, False])
def test_the_intact_copy_is_the_one_that_stays(trainer: Trainer, *, damaged_first: bool) -> None:
    """Of two copies of a chunk gc keeps one that can be read, whichever the index names.

    It used to keep the one that the index named, unread: after the index had been rebuilt that could be the damaged
    one, and the only intact copy, which a later commit had stored to heal it, was deleted.
    """
    id = digest(noise("frozen"))
    first = trainer.commit({"frozen": noise("frozen"), "a": noise("a")})
    (original,) = holding(trainer, id)
    session = trainer.store.new_packs()
    session.add(Kind.CHUNK, id, noise("frozen"), codec=0, raw_length=1000)
    session.publish()
    (copy,) = [path for path in holding(trainer, id) if path != original]
    spoil(trainer, id, original if damaged_first else copy)
    for _ in range(3):
        Trainer(trainer.store.path).tip()
        sweep(trainer)
        assert trainer.load(first)["frozen"] == noise("frozen")
        for name in ("data.mdb", "stamp"):
            os.unlink(trainer.store.join("index", name))
    assert [state.startswith("x") for state in os.listdir(trainer.store.join("quarantine"))] in ([], [False])


def test_unreadable_tree_stops_gc(trainer: Trainer) -> None:
    """A tree or a snapshot that cannot be read leaves gc blind: it ends, and nothing was deleted."""
    snapshot = trainer.commit({"w": noise(1)})
    trainer.commit_to("gone", {"w": noise(2)})
    drop(trainer, "gone")
    (path,) = holding(trainer, bytes.fromhex(snapshot))
    pack = Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id)
    for kind in (Kind.TREE, Kind.SNAPSHOT):
        (row,) = [row for row in pack.rows if row.header.kind is kind]
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[row.offset + RECORD_LENGTH + 3] ^= 1
        path.write_bytes(damaged)
        again = Trainer(trainer.store.path)
        before = files(trainer.store.path)
        with pytest.raises(DamagedData):
            sweep(again)
        assert files(trainer.store.path) == before
        path.write_bytes(intact)
    assert sweep(Trainer(trainer.store.path)).freed_packs == 1


def test_missing_pack_stops_gc(trainer: Trainer) -> None:
    """A chunk that is gone means that something is wrong: nothing is deleted."""
    trainer.commit({"w": noise(1)})
    (path,) = trainer.packs()
    trainer.commit({"w": noise(2)})
    path.unlink()
    with pytest.raises(MissingObject, match="deleted nothing"):
        sweep(trainer)


def test_unreadable_footer_is_left_alone(trainer: Trainer) -> None:
    """A pack whose footer is damaged may hold anything: it stays for a person to look at."""
    trainer.commit({"w": noise(1)})
    trainer.commit_to("gone", {"w": noise(2)})
    drop(trainer, "gone")
    (path,) = holding(trainer, digest(noise(2)))
    path.write_bytes(path.read_bytes()[:-10])
    sweep(Trainer(trainer.store.path))
    assert path.exists()


def test_left_overs(trainer: Trainer) -> None:
    """What a crash left in ``tmp/`` and ``trash/`` goes; a folder that somebody put there stops nothing."""
    trainer.commit({"w": noise(1)})
    for folder in ("tmp", "trash"):
        Path(trainer.store.join(folder, "left-over")).write_bytes(b"x" * 1000)
        os.mkdir(trainer.store.join(folder, "folder"))
    collect(trainer.store)
    assert os.listdir(trainer.store.join("tmp")) == os.listdir(trainer.store.join("trash")) == ["folder"]


# The clock


def aged(trainer: Trainer, days: float) -> None:
    """Make every record of every log that many days older."""
    for name in list(trainer.store.refs.names()):
        log = trainer.store.refs.log(name)
        records = log.read()
        if records:
            older = [
                encode_record(name, type(each)(**{**each.__dict__, "time_ns": each.time_ns - int(days * 86400e9)}))
                for each in records
            ]
            Path(log.path).write_bytes(b"".join(older))
    for name in ("data.mdb", "stamp"):
        os.unlink(trainer.store.join("index", name))


@pytest.mark.parametrize("days", [91, -91], ids=["the clock is ahead", "the clock is behind"])
def test_clock_and_logs_disagree(trainer: Trainer, days: float) -> None:
    """When the newest record is further from the clock than the expiry, one of them is wrong: gc asks first."""
    snapshot = trainer.commit({"w": noise(1)})
    trainer.tip()
    aged(trainer, days)
    with pytest.raises(ClockDisagrees):
        collect(trainer.store)
    assert collect(trainer.store, trust_clock=True).freed_bytes == 0
    assert trainer.load(snapshot) == {"w": noise(1)}


def test_expiry_is_judged_against_the_log(trainer: Trainer) -> None:
    """A record expires by the age of the newest one in its log; the newest hundred never do."""
    for number in range(105):
        trainer.set("main", f"{number:064x}")
    trainer.set("main", trainer.commit_to("other", {"w": noise(1)}))
    log = trainer.store.refs.log(HEADS + "main")
    records = [type(each)(**{**each.__dict__, "time_ns": each.time_ns - int(100 * 86400e9)}) for each in log.read()]
    Path(log.path).write_bytes(b"".join(encode_record(log.name, each) for each in records))
    os.unlink(trainer.store.join("index", "stamp"))
    with pytest.raises(MissingObject):  # all of one age: none expires, and these snapshots never were
        collect(trainer.store)
    report = sweep(trainer)
    assert report.expired_records == {HEADS + "main": 105}
    assert [record.sequence for record in log.read()] == [105]


# Interleavings


def between(trainer: Trainer, action: Callable[[], object]) -> None:
    """Let ``action`` happen after the next mark and before its sweep."""
    exclusive = trainer.store.exclusive

    @contextlib.contextmanager
    def interrupted(timeout_s: float) -> Iterator[None]:
        trainer.store.exclusive = exclusive  # type: ignore[method-assign]
        action()
        with exclusive(timeout_s):
            yield

    trainer.store.exclusive = interrupted  # type: ignore[assignment, method-assign]


def test_commit_between_mark_and_sweep(trainer: Trainer) -> None:
    """A commit that found a chunk known, after it was marked dead and before the sweep, keeps it."""
    trainer.commit({"w": noise(1)})
    trainer.commit_to("gone", {"frozen": noise("frozen", 20_000)})
    drop(trainer, "gone")
    other = Trainer(trainer.store.path)
    made: list[str] = []
    packs = len(trainer.packs())
    between(trainer, lambda: made.append(other.commit_to("new", {"frozen": noise("frozen", 20_000)})))
    report = sweep(trainer)
    assert len(holding(trainer, digest(noise("frozen", 20_000)[:4096]))) == 1  # it was not stored again
    assert report.freed_packs == 0
    assert len(trainer.packs()) == packs + 1
    for view in (trainer, other, Trainer(trainer.store.path)):
        assert view.load(made[0]) == {"frozen": noise("frozen", 20_000)}
    assert check(trainer.store, read_data=True).ok


def test_commit_relies_on_the_dead_part_of_a_repacked_pack(trainer: Trainer) -> None:
    """The same for a pack that has been repacked without the chunk: the pack stays, and the report adds up."""
    kept = sparse(trainer)
    other = Trainer(trainer.store.path)
    made: list[str] = []
    between(trainer, lambda: made.append(other.commit_to("new", {"large": noise("large", 60_000)})))
    report = sweep(trainer)
    assert (report.repacked_packs, report.freed_packs) == (0, 0)
    assert trainer.load(made[0]) == {"large": noise("large", 60_000)}
    assert trainer.load(kept) == {"small": noise("small")}
    assert check(trainer.store, read_data=True).ok


def test_commit_after_the_view_was_taken(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that lands after gc or fsck listed the packs, and before they read the logs, is no missing object.

    The SIGKILL storm found it: gc ended with MissingObject, and fsck could report intact chunks as missing.
    """
    other = Trainer(trainer.store.path)
    trainer.commit({"w": noise(0)})
    numbers = iter(range(1, 100))

    def late(store: object) -> dict[str, list[LogRecord]]:
        other.commit_to("late", {"w": noise(next(numbers))})
        return read_logs(trainer.store)

    monkeypatch.setattr("ciuic.store.fsck.read_logs", late)
    assert check(trainer.store, read_data=True).problems == ()
    monkeypatch.setattr("ciuic.store.gc.read_logs", late)
    assert collect(trainer.store, dry_run=True).snapshots == 3


def test_reset_between_mark_and_sweep(trainer: Trainer) -> None:
    """A branch that comes back to an old snapshot before the sweep keeps it."""
    first = trainer.commit_to("gone", {"w": noise(1)})
    trainer.commit({"w": noise(2)})
    drop(trainer, "gone")
    other = Trainer(trainer.store.path)
    between(trainer, lambda: other.set("back", first))
    sweep(trainer)
    assert trainer.load(first) == {"w": noise(1)}


def test_two_gcs_at_once(trainer: Trainer) -> None:
    """A sweep that comes between another one's mark and sweep makes that one start again."""
    kept = sparse(trainer)
    other = Trainer(trainer.store.path)
    between(trainer, lambda: sweep(other))
    report = sweep(trainer)
    assert report.repacked_packs == 0
    assert trainer.load(kept) == other.load(kept) == {"small": noise("small")}
    assert trainer.store.read_generation() == 2
    assert check(trainer.store, read_data=True).ok


def test_log_expired_by_another_gc(trainer: Trainer) -> None:
    """One gc forgets a log that the other has read: nothing live is lost, and the trip-wire stays quiet."""
    kept = trainer.commit({"w": noise(1)})
    trainer.commit_to("gone", {"w": noise(2)})
    drop(trainer, "gone")
    other = Trainer(trainer.store.path)
    between(trainer, lambda: sweep(other))
    collect(trainer.store)
    assert collect(other.store).freed_packs == 0
    assert trainer.load(kept) == {"w": noise(1)}


def test_lazy_state_outlives_a_sweep(trainer: Trainer) -> None:
    """Who holds the tensors of a snapshot can read them after gc has deleted it."""
    from ciuic.objects.state_tree import Container, Tensor
    from ciuic.restore.stored_state import read_component
    from ciuic.store.object_reader import read_snapshot

    snapshot = trainer.commit_to("gone", {"w": noise("w", 20_000)})
    reader = Trainer(trainer.store.path)
    with reader.store.shared():
        root = read_snapshot(reader.store, bytes.fromhex(snapshot)).tree["model"]
        tree = read_component(reader.store, "model", bytes.fromhex(root))
    drop(trainer, "gone")
    assert sweep(trainer).freed_packs == 1
    assert trainer.packs() == []
    assert isinstance(tree, Container)
    leaf = tree["w"]
    assert isinstance(leaf, Tensor)
    assert bytes(leaf.source.read(0, 20_000)) == noise("w", 20_000)
    with pytest.raises(MissingObject):
        reader.load(snapshot)


def test_a_branch_deleted_and_made_again(trainer: Trainer) -> None:
    """A log that ended with a tombstone goes on, and its old records hold what they held."""
    first = trainer.commit_to("again", {"w": noise(1)})
    drop(trainer, "again")
    second = trainer.commit_to("again", {"w": noise(2)})
    collect(trainer.store)
    assert (trainer.load(first), trainer.load(second)) == ({"w": noise(1)}, {"w": noise(2)})
    sweep(trainer)
    assert trainer.load(second) == {"w": noise(2)}
    with pytest.raises(MissingObject):
        trainer.load(first)


def test_pruned(trainer: Trainer) -> None:
    """A pruned snapshot keeps its small object and its ancestors; a pruned component goes alone."""
    first = trainer.commit({"w": noise(1, 30_000)}, optimizer={"m": noise("m", 90_000)})
    second = trainer.commit({"w": noise(2)})
    with trainer.store.shared():
        trainer.store.refs.prune(first, "optimizer")
    assert collect(trainer.store).freed_bytes > 0
    assert trainer.load(first) == {"w": noise(1, 30_000)}
    with trainer.store.shared():
        trainer.store.refs.prune(first, None)
    report = collect(trainer.store)
    assert (report.snapshots, report.pruned) == (2, 1)
    assert report.freed_bytes > 20_000
    assert trainer.load(second) == {"w": noise(2)}
    assert check(trainer.store).ok
    assert check(trainer.store).snapshots == 2


# Random histories against a dictionary


class Histories(RuleBasedStateMachine):
    """Commits, branches, resets, deletes, prunes, expiry, gc, lost indexes; the model is a dict of what was saved."""

    snapshots = Bundle("snapshots")

    @initialize(data=st.randoms(use_true_random=False))
    def start(self, data: object) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.trainers = [Trainer.create(self.folder.name + "/repo"), Trainer(self.folder.name + "/repo")]
        self.states: dict[str, dict[str, object]] = {}
        self.parents: dict[str, str | None] = {}
        self.logs: dict[str, list[str]] = {}
        self.pruned: set[str] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    def log(self, branch: str, value: str) -> None:
        self.logs.setdefault(branch, []).append(value)

    def tip(self, branch: str) -> str | None:
        log = self.logs.get(branch)
        return log[-1] if log and log[-1] != NOTHING else None

    def needed(self) -> set[str]:
        """Every snapshot that a log record reaches."""
        stack = [value for log in self.logs.values() for value in log if value != NOTHING]
        found: set[str] = set()
        while stack:
            id = stack.pop()
            if id not in found:
                found.add(id)
                parent = self.parents[id]
                stack += [parent] if parent else []
        return found

    @rule(
        target=snapshots,
        branch=st.sampled_from("abc"),
        who=st.integers(0, 1),
        tensors=st.dictionaries(st.sampled_from(["w", "v", "u.x"]), st.integers(0, 6), min_size=1),
    )
    def commit(self, branch: str, who: int, tensors: dict[str, int]) -> str:
        state: dict[str, object] = {name: noise(seed, 1500 * seed) for name, seed in tensors.items()}
        parent = self.tip(branch)
        snapshot = self.trainers[who].commit_to(branch, state)
        self.states[snapshot], self.parents[snapshot] = state, parent
        self.log(branch, snapshot)
        return snapshot

    @rule(branch=st.sampled_from("abcd"), who=st.integers(0, 1), snapshot=snapshots)
    def reset(self, branch: str, who: int, snapshot: str) -> None:
        if snapshot in self.needed() and self.tip(branch) != snapshot:
            self.trainers[who].set(branch, snapshot)
            self.log(branch, snapshot)

    @rule(branch=st.sampled_from("abcd"), who=st.integers(0, 1))
    def delete(self, branch: str, who: int) -> None:
        if self.tip(branch) is not None:
            self.trainers[who].set(branch, NOTHING)
            self.log(branch, NOTHING)

    @rule(snapshot=consumes(snapshots), who=st.integers(0, 1))
    def prune(self, snapshot: str, who: int) -> None:
        if snapshot in self.needed():
            with self.trainers[who].store.shared():
                self.trainers[who].store.refs.prune(snapshot, None)
            self.pruned.add(snapshot)

    @rule(who=st.integers(0, 1), expire=st.booleans())
    def gc(self, who: int, *, expire: bool) -> None:
        trainer = self.trainers[who]
        dry = collect(trainer.store, dry_run=True, expire=NOW if expire else None)
        report = collect(trainer.store, expire=NOW if expire else None)
        assert dry.snapshots == report.snapshots
        if expire:
            self.logs = {name: log[-1:] for name, log in self.logs.items() if log[-1] != NOTHING}
        assert report.snapshots == len(self.needed())
        assert report.kept_bytes == sum(path.stat().st_size for path in trainer.packs())

    @rule(who=st.integers(0, 1))
    def lose_the_index(self, who: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.trainers[who].store.join("index", "stamp"))

    @rule(who=st.integers(0, 1))
    def open_again(self, who: int) -> None:
        self.trainers[who] = Trainer(self.trainers[who].store.path)

    @rule(target=snapshots)
    def known(self) -> object:
        return multiple(*sorted(self.needed())[:2])

    @invariant()
    def everything_is_there(self) -> None:
        if not hasattr(self, "states"):
            return
        for snapshot in self.needed() - self.pruned:
            assert self.trainers[0].load(snapshot) == self.states[snapshot]

    @rule()
    def fsck(self) -> None:
        report = check(self.trainers[1].store, read_data=True)
        assert report.ok, report.problems
        assert report.snapshots == len(self.needed())


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)


# Killed; tests/storm has the crowd


def test_killed_gc_in_another_process(trainer: Trainer) -> None:
    """A gc that ends at any of its file effects leaves a repository that needs no repair (see test_faults too)."""
    kept = sparse(trainer)
    code = """
import os, sys
from datetime import timedelta
from ministore import Trainer
from ciuic.store.fs import FileSystem
from ciuic.store.gc import collect
class Dying(FileSystem):
    def rename(self, source, target):
        if "/trash/" in target:
            os._exit(0)
        super().rename(source, target)
collect(Trainer(sys.argv[1], Dying()).store, expire=timedelta(0))
"""
    assert output(python(code, trainer.store.path)) == ""
    assert check(trainer.store, read_data=True).ok
    assert sweep(trainer).freed_bytes > 59_000
    assert trainer.load(kept) == {"small": noise("small")}
    with pytest.raises(DamagedRef):
        os.rename(trainer.store.join("refs", "tags"), trainer.store.join("refs", "elsewhere"))
        sweep(trainer)

"""repair: what is intact in damaged packs and logs is saved, what is lost is named exactly, nothing is laundered."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from chained import Records
from faulty import Faulty
from ministore import CHUNK, Trainer, noise, output, python

from ciuic.errors import CiuicError, DamageError, StorageFull
from ciuic.objects.ids import Kind, digest
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RECORD_LENGTH, encode_record_header
from ciuic.store.reflog import SLOT
from ciuic.store.refs import HEADS
from ciuic.store.repair import RepairReport, repair
from ciuic.store.store import Store

STEPS = 6


@dataclass
class History:
    """Snapshots of a branch with records of every codec, two more on another one, and what each of them holds."""

    trainer: Trainer
    states: dict[str, dict[str, object]]

    @property
    def path(self) -> Path:
        return Path(self.trainer.store.path)

    def reopened(self) -> History:
        return History(Trainer(self.path), self.states)

    def whole(self) -> set[str]:
        """Snapshots that load as they were; anything else must be one of our errors."""
        found = set()
        view = Trainer(self.path)
        for id, state in self.states.items():
            try:
                loaded = view.load(id)
            except CiuicError:
                continue
            assert loaded == state
            found.add(id)
        return found

    def packs(self) -> list[Path]:
        return sorted((self.path / "packs").iterdir())


def build(path: Path, seed: int = 1) -> History:
    trainer = Trainer.create(path)
    records, states = Records(trainer, seed), {}
    state = records.first()
    records.write(state, None)
    for step in range(STEPS):
        named = {**state.named(), "frozen": noise("frozen", 3 * CHUNK), "step": step}
        states[trainer.commit(named, step=step)] = named
        after = records.next(state)
        records.write(after, state)
        state = after
    for number in range(2):
        other: dict[str, object] = {"frozen": noise("frozen", 3 * CHUNK), "x": noise(number, CHUNK // 2)}
        states[trainer.commit_to("other", other)] = other
    return History(trainer, states)


@pytest.fixture
def history(tmp_path: Path, original: History) -> History:
    copy = History(Trainer(shutil.copytree(original.path, tmp_path / "repo")), original.states)
    assert copy.whole() == copy.states.keys()  # and its index knows the logs
    return copy


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> History:
    return build(tmp_path_factory.mktemp("original") / "repo")


def files(path: Path) -> dict[str, bytes]:
    """What holds the repository's truth."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in ("index", "tmp", "lock", "gate")
    }


def repaired(history: History, *, lost: set[str] | None = None) -> RepairReport:
    """Plan, repair, and look: the plan changed nothing and said what came about; fsck agrees; once is enough.

    ``lost``: snapshots that must be lost; without it those that could not be read before may be.
    """
    before, could_be_read = files(history.path), history.whole()
    plan = repair(Store(str(history.path)), dry_run=True)
    assert files(history.path) == before, "a plan changes nothing"
    report = repair(Store(str(history.path)))
    assert (report.packs, report.logs, report.lost) == (plan.packs, plan.logs, plan.lost)
    whole = history.whole()
    assert whole >= could_be_read, "nothing gets worse"
    named = {each.id for each in report.lost}
    assert history.states.keys() - whole == named & history.states.keys()
    if lost is not None:
        assert named == lost
    view = Trainer(history.path)
    after = check(view.store, read_data=True)
    assert set(after.damaged_snapshots) == named
    assert after.ok == report.whole == (not named), after.problems
    again = repair(Store(str(history.path)), dry_run=True)
    assert not again.needed
    assert lines_of(again) == lines_of(report)
    view.commit_to("next", {"w": noise("next")})
    assert os.listdir(history.path / "tmp") == []
    return report


def lines_of(report: RepairReport) -> list[object]:
    """The losses, without the reasons: what was damaged is missing after a repair."""
    return [
        (each.id, None if each.losses is None else [(loss.path, loss.chunks) for loss in each.losses])
        for each in report.lost
    ]


# Packs


def header_lost(data: bytes) -> bytes:
    return bytes(64) + data[64:]


def trailer_lost(data: bytes) -> bytes:
    return data[:-64] + bytes(64)


def footer_bit(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 4]) + data[-99:]


def one_byte_short(data: bytes) -> bytes:
    return data[:-1]


def appended(data: bytes) -> bytes:
    return data + noise("garbage", 100)


def shifted(data: bytes) -> bytes:
    """Seven bytes came in between, so that nothing stands at a multiple of anything."""
    return data[:64] + noise("in between", 7) + data[64:]


def twice(data: bytes) -> bytes:
    return data + data


HARMLESS = [header_lost, trailer_lost, footer_bit, one_byte_short, appended, shifted, twice]


@pytest.mark.parametrize("damage", HARMLESS)
def test_what_says_where_records_stand_is_lost(history: History, damage: Callable[[bytes], bytes]) -> None:
    """Header, footer or trailer of every pack: all records are found by scanning, and nothing is lost."""
    count = len(history.packs())
    for pack in history.packs():
        pack.write_bytes(damage(pack.read_bytes()))
    report = repaired(history, lost=set())
    assert len(report.packs) == count and all(each.lost is None for each in report.packs)
    assert len(os.listdir(history.path / "quarantine")) == count, "the damaged ones are kept"


@pytest.mark.parametrize("where", ["payload", "header"])
def test_one_record_at_a_time(tmp_path: Path, original: History, where: str) -> None:
    """Whichever record is damaged: what does not need it is whole, the pack is set aside, and the loss is named."""
    places = []
    for path in original.packs():
        pack = Pack(original.trainer.store.fs, str(path), path.stem, original.trainer.store.repository_id)
        places += [(path.name, row) for row in pack.rows if row.header.stored_length]
    for number, (name, row) in enumerate(places[:: 3 if where == "payload" else 7]):
        copy = History(Trainer(shutil.copytree(original.path, tmp_path / str(number))), original.states)
        at = row.offset + (RECORD_LENGTH if where == "payload" else 30)
        data = bytearray((copy.path / "packs" / name).read_bytes())
        data[at] ^= 1
        (copy.path / "packs" / name).write_bytes(data)
        report = repaired(copy)
        if where == "header":  # the footer has it, too
            assert [each.lost for each in report.packs] == [0]
            assert report.whole
        assert [each.name for each in report.packs] == [name.removesuffix(".pack")]
        assert {each.step is None or each.losses is not None for each in report.lost} <= {True}
        shutil.rmtree(copy.path)


def test_losses_are_named_exactly(history: History) -> None:
    """Each tensor of each snapshot with the numbers of its chunks; and the newest intact snapshot of each branch."""
    middle = noise("frozen", 3 * CHUNK)[CHUNK : 2 * CHUNK]
    spoil(history, digest(middle))
    report = repaired(history, lost=set(history.states))
    assert [each.step for each in report.lost] == [*reversed(range(STEPS)), None, None]
    for each in report.lost:
        assert each.losses is not None
        assert [(loss.path, loss.chunks) for loss in each.losses] == [("model/frozen", (1,))]
    assert [(branch.name, branch.intact) for branch in report.branches] == [("main", None), ("other", None)]


def test_the_newest_intact_snapshot_of_each_branch(history: History) -> None:
    """The one before, where the tip is damaged; the tip itself, where it is not."""
    ids = list(history.states)
    lonely = next(raw for raw in (history.states[ids[-1]]["x"],) if isinstance(raw, bytes))
    spoil(history, digest(lonely))
    report = repaired(history, lost={ids[-1]})
    states = {branch.name: (branch.tip, branch.intact, branch.step) for branch in report.branches}
    assert states == {"main": (ids[STEPS - 1], ids[STEPS - 1], STEPS - 1), "other": (ids[-1], ids[-2], None)}


def spoil(history: History, *ids: bytes) -> None:
    """Flip a stored byte of every copy."""
    for path in history.packs():
        pack = Pack(history.trainer.store.fs, str(path), path.stem, history.trainer.store.repository_id)
        data = bytearray(path.read_bytes())
        for row in pack.rows:
            if row.header.id in ids:
                data[row.offset + RECORD_LENGTH] ^= 1
        path.write_bytes(data)


def test_nothing_is_laundered(history: History) -> None:
    """A record of a new pack is one of an old pack, header and bytes; a damaged one is in no new pack."""
    known = set()
    for path in history.packs():
        pack = Pack(history.trainer.store.fs, str(path), path.stem, history.trainer.store.repository_id)
        known |= {encode_record_header(row.header) + bytes(pack.stored(*placed(row))[1]) for row in pack.rows}
    old = set(history.packs())
    for path in old:
        data = bytearray(path.read_bytes())
        for position in range(300, len(data), 401):
            data[position] ^= 1 << position % 8
        path.write_bytes(data)
    repair(Store(str(history.path)))
    new = set(history.packs()) - old
    assert new
    for path in new:
        pack = Pack(history.trainer.store.fs, str(path), path.stem, history.trainer.store.repository_id)
        for row in pack.rows:
            assert encode_record_header(row.header) + bytes(pack.stored(*placed(row))[1]) in known


def placed(row: object) -> tuple[int, int]:
    return row.offset, row.header.stored_length  # type: ignore[attr-defined]


def test_a_writers_fault_is_not_copied_for_ever(history: History) -> None:
    """A record whose checksum is right and whose bytes are not those of its id is left behind, and said to be lost."""
    trainer = history.trainer
    raw = noise("right", CHUNK)
    wrong = noise("wrong", CHUNK)
    with trainer.store.shared():
        session = trainer.store.new_packs()
        from ciuic.store.pack_format import RecordHeader

        header = RecordHeader(Kind.CHUNK, 0, 1, 0, CHUNK, CHUNK, digest(raw), bytes(32), digest(wrong))
        session.copy(header, wrong)
        trainer.store.index_commit(session.publish(), {})
    snapshot = trainer.commit({"w": raw})
    report = repaired(history, lost={snapshot})
    assert [each.lost for each in report.packs] == [1]


def test_a_second_copy_saves(history: History) -> None:
    """Of a chunk with two copies one is damaged: nothing is lost, and the copy is not copied."""
    raw = noise("frozen", 3 * CHUNK)[:CHUNK]
    trainer = history.trainer
    with trainer.store.shared():
        session = trainer.store.new_packs()
        session.add(Kind.CHUNK, digest(raw), raw, codec=0, raw_length=len(raw))
        (kept,) = session.publish()
    for path in history.packs():
        if path.stem != kept:
            data = path.read_bytes()
            path.write_bytes(data.replace(raw, raw[:-1] + bytes([raw[-1] ^ 1])))
    repaired(history, lost=set())


def test_names_changed_places(history: History) -> None:
    """Two packs that have each other's names are found out, and each record is where it belongs again."""
    first, second = history.packs()[:2]
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    repaired(history, lost=set())
    assert {file.read_bytes() for file in (history.path / "quarantine").iterdir()} == set(data)


def test_another_repositorys_pack(history: History, tmp_path: Path) -> None:
    """It is set aside as it is, and nothing of it is taken over."""
    other = Trainer.create(tmp_path / "other")
    snapshot = other.commit({"w": noise("other")})
    (foreign,) = other.packs()
    shutil.copy(foreign, history.path / "packs" / foreign.name)
    report = repaired(history, lost=set())
    assert [(each.name, each.saved) for each in report.packs] == [(foreign.stem, 0)]
    assert "another repository" in report.packs[0].problem
    (aside,) = (history.path / "quarantine").iterdir()
    assert aside.read_bytes() == foreign.read_bytes()
    with pytest.raises(DamageError):
        Trainer(history.path).load(snapshot)


def test_a_pack_is_gone(history: History) -> None:
    """There is nothing to mend; what is lost is named all the same."""
    before = history.packs()
    victim = next(
        path
        for path in before
        if any(
            row.header.kind is Kind.SNAPSHOT and row.header.id.hex() == list(history.states)[-1]
            for row in Pack(history.trainer.store.fs, str(path), path.stem, history.trainer.store.repository_id).rows
        )
    )
    victim.unlink()
    shutil.rmtree(history.path / "index")
    report = repair(Store(str(history.path)), dry_run=True)
    assert not report.needed and not report.whole
    ids = list(history.states)
    assert [(each.id, each.losses) for each in report.lost] == [(ids[-1], None)]
    states = {branch.name: (branch.tip, branch.intact) for branch in report.branches}
    assert states["other"] == (ids[-1], ids[-2]), "beyond the snapshot that is gone, its log knows"


def test_gc_after_a_repair(history: History) -> None:
    """gc goes on once the damaged snapshot is pruned, and keeps what was saved; the quarantine is a person's."""
    ids = list(history.states)
    spoil(history, digest(history.states[ids[-1]]["x"]))  # type: ignore[arg-type]
    repaired(history, lost={ids[-1]})
    again = Trainer(history.path)
    with pytest.raises(DamageError):
        collect(again.store, expire=timedelta(0))
    with again.store.shared():
        again.store.refs.prune(ids[-1], None)
    collect(again.store, expire=timedelta(0))
    assert history.whole() == set(ids[:-1])
    assert len(os.listdir(history.path / "quarantine")) == 1


def test_nothing_to_mend(history: History) -> None:
    """A sound repository is as it was, but for its index, which is built anew."""
    before, index = files(history.path), (history.path / "index" / "data.mdb").stat().st_ino
    report = repaired(history, lost=set())
    assert not report.needed
    after = files(history.path)
    assert {name: after[name] for name in before if name.startswith("packs")} == {
        name: data for name, data in before.items() if name.startswith("packs")
    }
    assert (history.path / "index" / "data.mdb").stat().st_ino != index


def test_missing_parts(history: History) -> None:
    """Locks and empty folders are made anew."""
    for part in ("lock", "gate"):
        (history.path / part).unlink()
    for part in ("trash", "quarantine", "tmp", "index"):
        shutil.rmtree(history.path / part)
    repaired(history, lost=set())


# Logs


def log_of(history: History, name: str = "refs/heads/main") -> Path:
    return history.path / name


def values(history: History, name: str = "refs/heads/main") -> list[str]:
    return [record.new for record in Trainer(history.path).store.refs.log(name).read()]


def test_a_bit_of_a_log(history: History) -> None:
    """Whichever bit it is: the record is what it was."""
    original, right = log_of(history).read_bytes(), values(history)
    for position in range(0, len(original), 61):
        data = bytearray(original)
        data[position] ^= 1 << position % 8
        log_of(history).write_bytes(data)
        report = repair(Store(str(history.path)))
        assert [(log.name, log.lost, log.corrected) for log in report.logs] == [("refs/heads/main", 0, 1)]
        assert values(history) == right
        assert log_of(history).read_bytes() == original
    assert history.whole() == history.states.keys()


@pytest.mark.parametrize("lost", [[0], [2], [2, 3], [1, 3], [0, 1, 2, 3, 4]])
def test_records_of_a_log(history: History, lost: list[int]) -> None:
    """What is left is kept, in order, with each value that a record that is left names; the branch is where it was."""
    ids = list(history.states)[:STEPS]
    data = bytearray(log_of(history).read_bytes())
    for number in lost:
        data[number * SLOT + 40 : number * SLOT + 300] = noise(number, 260)
    log_of(history).write_bytes(data)
    report = repaired(history, lost=set())
    (log,) = report.logs
    assert (log.lost, log.end_lost, log.value) == (len(lost), False, ids[-1])
    named = {number for number in range(STEPS) if number not in lost or number + 1 not in lost}
    assert values(history) == [ids[number] for number in sorted(named)]
    assert [file.read_bytes() for file in (history.path / "quarantine").iterdir()] == [bytes(data)]
    assert not report.found


@pytest.mark.parametrize("how", ["noise", "cut off", "gone", "gone, without an index"])
def test_the_end_of_a_log(history: History, how: str) -> None:
    """The newest record is lost: the branch goes back, and what it named gets a branch, so that gc keeps it."""
    ids = list(history.states)[:STEPS]
    path = log_of(history)
    data = path.read_bytes()
    if how == "noise":
        path.write_bytes(data[:-SLOT] + data[-SLOT : -SLOT + 30] + noise(1, SLOT - 30))
    elif how == "cut off":
        path.write_bytes(data[: -2 * SLOT])
    else:
        path.unlink()
        (history.path / "refs/heads/other").unlink()
    if how == "gone, without an index":
        shutil.rmtree(history.path / "index")
    report = repaired(history, lost=set())
    back = {"noise": ids[-2], "cut off": ids[-3]}.get(how)
    assert Trainer(history.path).tip() == back
    assert [each.id for each in report.found if each.step is not None] == [ids[-1]]
    assert Trainer(history.path).tip(f"rescued-{ids[-1][:8]}") == ids[-1]
    collect(Trainer(history.path).store, expire=timedelta(0))
    assert history.whole() == history.states.keys()


def test_a_log_out_of_order(history: History) -> None:
    """Two records that changed places, a front that is lost, bytes that came in: order is what numbers say."""
    data, right = log_of(history).read_bytes(), values(history)
    slots = [data[start : start + SLOT] for start in range(0, len(data), SLOT)]
    for wrong in (
        b"".join([slots[1], slots[0], *slots[2:]]),
        b"".join([*slots[:2], b"abc", *slots[2:]]),
        b"".join([*slots[:3], *slots[2:]]),
    ):
        log_of(history).write_bytes(wrong)
        assert repaired(history, lost=set()).logs
        assert values(history) == right
    log_of(history).write_bytes(data[200:])
    repaired(history, lost=set())
    assert values(history) == right, "the second record names what the first was"


def test_heads_log_and_the_log_of_prunes(history: History) -> None:
    """Records of prunes that are left count; a HEAD of which nothing is left is where a new repository's is."""
    ids = list(history.states)
    trainer = history.trainer
    with trainer.store.shared():
        for id in ids[:3]:
            trainer.store.refs.prune(id, "model")
        trainer.store.refs.set("HEAD", "ref:refs/heads/other", "checkout")
    for name in ("prunes", "HEAD"):
        data = bytearray((history.path / name).read_bytes())
        data[40:300] = noise(name, 260)
        (history.path / name).write_bytes(data)
    report = repair(Store(str(history.path)))
    assert [(log.name, log.lost) for log in report.logs] == [("HEAD", 1), ("prunes", 1)]
    again = Trainer(history.path)
    assert set(again.store.refs.prunes()) == set(ids[1:3])
    assert again.store.refs.head().branch == "main"
    assert not repair(Store(str(history.path)), dry_run=True).needed


def test_what_is_no_log(history: History) -> None:
    """Files that stop gc are moved away, and a folder in place of a log; a folder of logs that is gone is made anew."""
    (history.path / "refs/heads/not a log").write_bytes(b"x")
    (history.path / "refs/heads/folder").mkdir()
    shutil.rmtree(history.path / "refs/tags")
    report = repaired(history, lost=set())
    assert report.aside == ("refs/heads/not a log",) and report.made == ("refs/tags",)
    assert [log.name for log in report.logs] == ["refs/heads/folder"]
    collect(Trainer(history.path).store)


def test_the_generation_is_lost(history: History) -> None:
    """Another process that remembers number 0 must not take the repository for unchanged."""
    (history.path / "generation").write_bytes(b"\x00\x00")
    history.packs()[0].write_bytes(trailer_lost(history.packs()[0].read_bytes()))
    repaired(history, lost=set())
    assert Store(str(history.path)).read_generation() > 1000


# Interruptions


def ruined(path: Path) -> History:
    """A bit of everything."""
    history = build(path)
    last = digest(history.states[list(history.states)[-1]]["x"])  # type: ignore[arg-type]
    packs = [path for path in history.packs() if last not in path.read_bytes()]  # three different packs are damaged
    spoil(history, last)
    packs[0].write_bytes(trailer_lost(packs[0].read_bytes()))
    packs[1].write_bytes(header_lost(packs[1].read_bytes()))
    for name, start in (("refs/heads/main", 2 * SLOT), ("refs/heads/other", SLOT)):
        data = bytearray((history.path / name).read_bytes())
        data[start + 40 : start + 300] = noise(name, 260)
        (history.path / name).write_bytes(data)
    (history.path / "refs/heads/stray one").touch()
    return history


def effects(original: History, copy: Path) -> list[str]:
    """The names of the file effects of a repair, in order; ``copy`` is there only meanwhile."""
    shutil.copytree(original.path, copy)
    fs = Faulty()
    repair(Store(str(copy), fs))
    shutil.rmtree(copy)
    return [line.split(" ")[0] for line in fs.log]


DYING = """
import os, shutil, sys
from pathlib import Path
from faulty import Faulty
from test_repair import effects, ruined, settled
from ciuic.store.repair import repair
from ciuic.store.store import Store
original = ruined(Path(sys.argv[1]) / "original")
copy = Path(sys.argv[1]) / "copy"
deaths = 0
for number, effect in enumerate(effects(original, copy)):
    for die in ("half", "after") if effect.startswith("write") else ("after",):
        shutil.copytree(original.path, copy)
        child = os.fork()
        if child == 0:
            try:
                repair(Store(str(copy), Faulty(number, die=die)))
                os._exit(1)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(2)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, 1), (number, die)
        settled(copy, original)
        shutil.rmtree(copy)
        deaths += ended == 0
print(deaths)
"""


def settled(path: Path, original: History) -> None:
    """After whatever happened: repaired again, everything that can be saved is."""
    history = History(Trainer(path), original.states)
    report = repair(Store(str(path)))
    again = repair(Store(str(path)), dry_run=True)
    assert not again.needed, (report, again)
    ids = list(original.states)
    assert history.whole() == set(ids[:-1])
    main = values(history)
    assert main == ids[:STEPS]
    tips = set(Trainer(path).store.refs.listing(HEADS).values())
    assert {ids[STEPS - 1], ids[-2]} <= tips
    assert Trainer(path).commit_to("next", {"w": noise("next")})
    assert len([name for name in os.listdir(path / "quarantine") if name.endswith(".pack")]) >= 3


def test_every_effect_is_the_last(tmp_path: Path) -> None:
    """Killed in the middle of the Nth file effect, or after it, for every N, repair does the rest when run again."""
    assert int(output(python(DYING, tmp_path))) > 60


@pytest.mark.parametrize(
    ("fault", "turn"),
    [({"number": 28, "for_ever": True}, 0), ({"number": 5}, 1), ({"number": 28, "short": True}, None)],
)
def test_every_effect_fails(tmp_path: Path, fault: dict[str, object], turn: int | None) -> None:
    """A full or failing disk at the Nth effect: our error or success, and the next repair does the rest.

    The first two take turns; only a write can be short.
    """
    original = ruined(tmp_path / "original")
    copy = tmp_path / "copy"
    names = effects(original, copy)
    assert len(names) > 30
    for number, name in enumerate(names):
        if not name.startswith("write") if turn is None else number % 2 != turn:
            continue
        shutil.copytree(original.path, copy)
        with contextlib.suppress(CiuicError):
            repair(Store(str(copy), Faulty(number, **fault)))  # type: ignore[arg-type]
        settled(copy, original)
        shutil.rmtree(copy)


def test_no_room_for_the_copies(history: History) -> None:
    """Nothing has been moved when the disk is full."""
    victim = history.packs()[0]
    victim.write_bytes(trailer_lost(victim.read_bytes()))
    before = files(history.path)
    store = Store(str(history.path))
    store.fs = Faulty(0, 28, for_ever=True, effects=("write",))
    with pytest.raises(StorageFull):
        repair(store)
    assert files(history.path) == before


def test_beside_committers_and_gc(history: History, tmp_path: Path) -> None:
    """Processes commit and sweep while a repair copies and moves: nothing of theirs is lost."""
    from test_locks import COMMITTING

    victim = history.packs()[0]
    victim.write_bytes(trailer_lost(victim.read_bytes()))
    stop = tmp_path / "stop"
    children = [python(COMMITTING, history.path, stop, name) for name in ("one", "two")]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for _ in range(3):
        repair(Store(str(history.path)))
        collect(Store(str(history.path)))
        damaged = Trainer(history.path)
        with damaged.store.shared():
            name = sorted(damaged.store.present)[0]
        data = (history.path / "packs" / f"{name}.pack").read_bytes()
        (history.path / "packs" / f"{name}.pack").write_bytes(trailer_lost(data))
    repair(Store(str(history.path)))
    stop.touch()
    for child in children:
        assert int(output(child)) > 0
    assert check(Trainer(history.path).store, read_data=True).ok
    assert history.whole() == history.states.keys()

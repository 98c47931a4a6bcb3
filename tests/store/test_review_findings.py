"""What a reviewer broke in the durable core, each as the story that broke it, through the public ``Repo``."""

import errno
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from ministore import Trainer, noise, output, python

import ciuic
from ciuic.errors import CiuicError, DamagedData, DamagedRef, StorageError, UnknownRef, UnknownRevision
from ciuic.history.following import Following
from ciuic.objects import extent
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.objects.tree import ChildEntry, Tree, ValueEntry, encode_tree
from ciuic.store import open_packs, reflog
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.refs import HEADS
from ciuic.store.store import Store

NOW = timedelta(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def repo(path: Path) -> ciuic.Repo:
    return ciuic.Repo.init(path, chunk_size=4096)


def through(path: Path, fs: FileSystem) -> ciuic.Repo:
    """The repository as a process sees it whose disk is ``fs``."""
    repo = ciuic.Repo(path)
    repo._store = repo._saving._store = Store(os.fspath(path), fs)
    repo._following = repo._saving._following = Following(repo._store)
    return repo


def save(repo: ciuic.Repo, step: int, **parts: bytes) -> Snapshot:
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in parts.items()}
    return repo.commit(extra=tensors, step=step, rng=False)


def sound(path: Path, *snapshots: Snapshot) -> None:
    """A new process finds nothing wrong, and every byte of the snapshots."""
    repo = ciuic.Repo(path)
    assert repo.fsck(read_data=True).problems == ()
    for snapshot in snapshots:
        assert len(repo.load(snapshot)["extra"]["x"]) > 0


class FolderSyncFails(FileSystem):
    """``after_rename`` runs once a pack has its name; while ``failing``, the folder's sync fails once."""

    after_rename = None
    failing = False

    def rename(self, source, target):
        super().rename(source, target)
        if self.after_rename is not None and target.endswith(".pack"):
            action, self.after_rename = self.after_rename, None
            action()

    def sync_folder(self, path):
        if self.failing and path.endswith("/packs"):
            self.failing = False
            raise StorageError(f"{path}: {os.strerror(errno.EIO)}")
        super().sync_folder(path)


@pytest.mark.parametrize("variant", ["concurrent", "existed before"])
def test_a_pack_that_another_commit_relies_on_stays(repo, path, monkeypatch, variant):
    """B's pack has its name, A finds its chunks there and is acknowledged, and then B's folder sync fails.

    B must not take the pack back. Or A's pack was there first, and B, which had looked before, made the same one.
    """
    (path / "config.toml").write_text("chunk_size = 65536\npack_limit = 1048576\n")
    data = noise("shared", 3 << 20)
    fs = FolderSyncFails()
    a, b = ciuic.Repo(path), through(path, fs)
    acknowledged = []

    def commit_a():
        acknowledged.append(save(a, 1, x=data, who=b"a"))
        fs.failing = True

    if variant == "concurrent":
        fs.after_rename = commit_a
    else:
        monkeypatch.setattr(b._store, "known", lambda id: False)
        commit_a()
    with pytest.raises(StorageError):
        save(b, 1, x=data, who=b"b")
    monkeypatch.undo()
    sound(path, *acknowledged)
    packs = set(os.listdir(path / "packs"))
    retried = save(b, 1, x=data, who=b"b")
    assert packs <= set(os.listdir(path / "packs")), "nothing is taken back"
    sound(path, *acknowledged, retried)
    ciuic.Repo(path).gc(expire=NOW)
    sound(path, *acknowledged, retried)


def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    (folder / "generation").write_text("7\n")
    return folder


def untouched(folder: Path) -> None:
    assert {each.name: each.read_text() for each in folder.iterdir()} == {
        "thesis.tex": "years of work",
        "generation": "7\n",
    }


def use(path: Path) -> None:
    repo = ciuic.Repo(path)
    save(repo, 9, x=noise(9))
    repo.gc(expire=NOW)


@pytest.mark.parametrize("name", ["tmp", "trash", "quarantine", "index", "packs", "refs", "refs/heads", "refs/tags"])
def test_a_folder_that_leads_elsewhere(repo, path, tmp_path, name):
    """A repository from a stranger: gc emptied trash/ and tmp/ wherever they led."""
    save(repo, 0, x=noise(0))
    victim = outside(tmp_path)
    shutil.rmtree(path / name)
    (path / name).symlink_to(victim)
    with pytest.raises(CiuicError, match="is a link"):
        use(path)
    untouched(victim)


@pytest.mark.parametrize("name", ["HEAD", "generation", "lock", "gate", "config.toml", "format", "prunes"])
def test_a_file_that_leads_elsewhere(repo, path, tmp_path, name):
    """The same with a file, one that is there or not."""
    save(repo, 0, x=noise(0))
    victim = outside(tmp_path)
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(victim / "thesis.tex")
    with pytest.raises(CiuicError, match="is a link"):
        use(path)
    untouched(victim)


def test_a_log_that_leads_elsewhere(repo, path, tmp_path):
    """A commit wrote its record into whatever a branch's file led to."""
    save(repo, 0, x=noise(0))
    victim = outside(tmp_path)
    (path / "refs/heads/dev").symlink_to(victim / "thesis.tex")
    (path / "refs/heads/gone").symlink_to(victim / "nothing")
    repo = ciuic.Repo(path)
    for name in ("dev", "gone"):
        for action in (lambda name=name: repo.branch(name), lambda name=name: repo.resolve(name), repo.branches):
            with pytest.raises(StorageError):
                action()
    with pytest.raises(CiuicError):
        repo.gc(expire=NOW)
    (path / "refs/heads/main").unlink()
    (path / "refs/heads/main").symlink_to(victim / "thesis.tex")
    with pytest.raises(StorageError):
        use(path)
    untouched(victim)


def test_a_pack_that_leads_elsewhere(repo, path, tmp_path):
    """Its bytes are another file's: it is not read, nor made an object of this repository by gc."""
    save(repo, 0, x=noise(0))
    victim = outside(tmp_path)
    (pack,) = (path / "packs").iterdir()
    pack.unlink()
    pack.symlink_to(victim / "thesis.tex")
    again = ciuic.Repo(path)
    for action in (lambda: again.resolve("HEAD"), lambda: again.gc(expire=NOW)):
        with pytest.raises(CiuicError):
            action()
    assert again.fsck().problems
    untouched(victim)


@pytest.mark.parametrize("name", ["refs/heads/dev", "refs/heads/main", "HEAD", "prunes"])
def test_a_pipe_hangs_nobody(repo, path, name):
    """Opening a pipe waits for whoever writes to it, for ever. In a child, so that this test ends."""
    save(repo, 0, x=noise(0))
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    code = """
import sys, datetime
from ciuic.errors import CiuicError
from ministore import Trainer
from ciuic.store.gc import collect
said = []
for action in (lambda: Trainer(sys.argv[1]).store.refs.listing("refs/"), lambda: Trainer(sys.argv[1]).commit({"a": 1}),
               lambda: collect(Trainer(sys.argv[1]).store, expire=datetime.timedelta(0))):
    try:
        action()
        said.append("done")
    except CiuicError as error:
        said.append(type(error).__name__)
print(*said)
"""
    child = python(code, path)
    try:
        assert "StorageError" in child.communicate(timeout=30)[0]
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def half_collected(repo, path):
    """A trainer stands on a snapshot of which gc took a chunk; its record stays in a pack that lives on."""
    a, b, c = noise("a", 20_000), noise("b", 200_000), noise("c", 300_000)
    first = save(repo, 0, x=b"0")
    save(repo, 1, a=a, b=b)
    collected = save(repo, 2, b=b, c=c)
    other = ciuic.Repo(path)
    other.reset(first)
    last = save(ciuic.Repo(path), 3, c=c, x=b"1")
    assert other.gc(expire=NOW).freed_packs == 1
    return repo, collected, last


def test_what_is_half_collected_has_no_name(half_collected, path, caplog):
    """Named again by its id, it made gc stop for ever. Its record is still in a pack: nothing may follow it."""
    trainer, collected, last = half_collected
    for repo in (ciuic.Repo(path), trainer):
        for revision in (collected.id, collected.id[:8], collected):
            for action in (repo.resolve, repo.load, repo.reset, repo.switch, repo.prune):
                with pytest.raises(UnknownRevision):
                    action(revision)
            for make in (repo.branch, repo.tag):
                with pytest.raises(UnknownRevision):
                    make("again", revision)
            with pytest.raises(UnknownRevision):
                repo.restore(revision, extra={})
    on = save(trainer, 4, x=b"4")
    assert on.parents == () and "begins a new history" in caplog.text
    assert save(trainer, 5, x=b"5").parents == (on.id,)
    for _ in range(2):
        ciuic.Repo(path).gc(expire=NOW)
        sound(path, last, on)
    shutil.rmtree(path / "index")
    with pytest.raises(UnknownRevision):
        ciuic.Repo(path).resolve(collected.id)


def test_a_second_copy_of_a_living_snapshot_is_no_dead_one(repo, path):
    """A gc that was killed between its copies and its sweep leaves two of each. Only one is marked; the other, in a
    pack that lives on, is no sign that the snapshot is dead.
    """
    first, second = save(repo, 1, x=noise(1)), save(repo, 2, x=noise(2))
    store = repo._store
    with store.shared():
        session = store.new_packs()
        packs = {id: store.pack(store.place(bytes.fromhex(id)).pack) for id in (first.id, second.id)}
        for row in packs[first.id].rows:
            session.copy(*packs[first.id].stored(row.offset, row.header.stored_length))
        row = packs[second.id].by_id[bytes.fromhex(second.id)]
        session.copy(*packs[second.id].stored(row.offset, row.header.stored_length))
        store.index_commit(session.publish(), {})
        store.index_commit({packs[second.id].name: list(packs[second.id].rows)}, {})
    repo.gc()
    assert ciuic.Repo(path).resolve(second.id).step == 2 and store.refs.buried() == frozenset()
    assert save(repo, 3, x=b"3").parents == (second.id,)
    sound(path, first, second)


def test_a_branch_deleted_a_second_ago_is_not_forgotten(repo, path):
    """``gc(expire=30 days)`` after a slip: the tombstone is young, so all that the branch reached can be had back."""
    save(repo, 0, x=noise(0))
    repo.branch("exp")
    repo.switch("exp")
    lost = save(repo, 1, x=noise(1))
    repo.switch("main")
    repo.delete_branch("exp")
    repo.gc(expire=timedelta(days=30))
    sound(path, lost)
    assert repo.resolve("exp@{1}").id == lost.id and repo.reflog("exp")[0].new is None
    assert repo.gc(expire=NOW).freed_packs == 1
    with pytest.raises(UnknownRef):
        repo.reflog("exp")
    with pytest.raises(UnknownRevision):
        repo.resolve(lost.id)
    repo.branch("exp")
    repo.gc(expire=NOW)
    sound(path)


def test_committers_do_not_rebuild_each_others_index(trainer):
    """Each found the other's stamp half written, and made the whole index anew: a storm that grows with the packs."""
    trainer.commit({"x": b"1"}, 0)
    code = """
import os, sys
from ministore import Trainer
from ciuic.history.following import Position
from ciuic.store.index import Index
made, create = [], Index.create
Index.create = lambda *arguments: (made.append(1), create(*arguments))[1]
trainer = Trainer(sys.argv[1])
trainer.following.position = Position(sys.argv[2], sys.argv[2], None, None)
for step in range(25):
    trainer.commit({"x": os.urandom(100)}, step)
print(len(made))
"""
    children = [python(code, trainer.store.path, f"b{number}") for number in range(3)]
    assert sum(int(output(child)) for child in children) <= 2
    for number in range(3):
        assert Trainer(trainer.store.path).tip(f"b{number}")
    assert ciuic.Repo(trainer.store.path).fsck().problems == ()


def test_a_record_that_was_withdrawn_is_no_trip_wire(repo, path, monkeypatch):
    """The index is lost while an append is in its sync; whoever makes it anew meets a record that never is durable."""
    monkeypatch.setattr(reflog, "SETTLE_TIMEOUT_S", 0.1)

    class RebuiltMeanwhile(FileSystem):
        armed = False

        def sync(self, descriptor, path):
            if self.armed and "refs/heads" in path:
                self.armed = False
                shutil.rmtree(os.path.join(os.path.dirname(path), "../../index"))
                with Store(os.path.join(os.path.dirname(path), "../..")).shared():
                    pass
                raise StorageError(f"{path}: {os.strerror(errno.EIO)}")
            super().sync(descriptor, path)

    fs = RebuiltMeanwhile()
    failing = through(path, fs)
    save(failing, 1, x=b"1")
    fs.armed = True
    with pytest.raises(StorageError):
        save(failing, 2, x=b"2")
    ciuic.Repo(path).gc()
    assert ciuic.Repo(path).resolve("HEAD").step == 1
    third = save(failing, 3, x=b"3")
    ciuic.Repo(path).gc()
    sound(path, third)
    assert [each.step for each in failing.log()] == [3, 1]


def hostile(repo: ciuic.Repo, kind: str, levels: int) -> None:
    """A snapshot of which each tree holds the next one twice."""
    store = repo._store
    with store.shared():
        session = store.new_packs()

        def add(kind: Kind, raw: bytes) -> bytes:
            id = object_id(kind, raw)
            session.add(kind, id, raw, codec=0, raw_length=len(raw))
            return id

        tree = add(Kind.TREE, encode_tree(Tree(kind, (("v", ValueEntry(1)),))))
        for _ in range(levels):
            both = (("a", tree), ("b", tree))
            entries = tuple((key, ChildEntry(id)) for key, id in both)
            nested = Tree("module", (), modules=both) if kind == "module" else Tree(kind, entries)
            tree = add(Kind.TREE, encode_tree(nested))
        honest = save(repo, 1, x=b"1")
        snapshot = Snapshot(
            id="", step=2, epoch=None, timestamp=honest.timestamp, message="", metrics={}, config={},
            parents=(honest.id,), tree={"extra": tree.hex()}, contains=("extra",), raw_bytes={"extra": 1},
            added_bytes=0, versions={},
        )  # fmt: skip
        id = add(Kind.SNAPSHOT, encode_snapshot(snapshot))
        store.index_commit(session.publish(), {})
        store.move_ref(HEADS + "main", id.hex(), "by a stranger")


@pytest.mark.parametrize("kind", ["dict", "module"])
def test_trees_that_hold_each_other_many_times(repo, path, monkeypatch, kind):
    """A repository of 20 KB that would unfold into 2^60 nodes: reading stops, counting and gc meet each tree once."""
    hostile(repo, kind, 60)
    monkeypatch.setattr(extent, "MOST_LEAVES", 5_000)
    again = ciuic.Repo(path)
    with pytest.raises(DamagedData, match="more than 5000 tensors and values"):
        again.restore("HEAD", extra={})
    with pytest.raises(DamagedData, match="more than 5000 tensors and values"):
        again.components("HEAD")["extra"]
    with pytest.raises(DamagedData, match="more than 5000 tensors and values"):
        again.diff("HEAD", "HEAD~1")
    assert again.fsck().problems == () and again.gc(expire=NOW).snapshots == 2
    assert again.stats()
    assert next(again.log()).step == 2


@pytest.mark.parametrize("name", ["refs/heads/main", "refs/tags/v1", "HEAD", "prunes"])
def test_a_log_of_two_tebibytes(repo, path, name):
    """Sparse, it costs its maker nothing: it is refused by its size, and not read."""
    save(repo, 1, x=b"1")
    repo.tag("v1")
    with (path / name).open("ab") as file:
        try:
            file.truncate(1 << 41)
        except OSError:
            pytest.skip("this file system has no files of that size")
    with pytest.raises(DamagedRef, match="larger than any log"):
        use(path)


def test_footers_are_read_once_where_no_index_can_be_made(repo, path, monkeypatch):
    """On a disk that cannot hold an index each look opened every pack again."""
    monkeypatch.setattr(open_packs, "OPEN_PACKS", 4)

    class Counting(FileSystem):
        opened = 0

        def open(self, path, *, write=False):
            self.opened += path.endswith(".pack")
            return super().open(path, write=write)

    for step in range(20):
        save(repo, step, x=noise(step))
    shutil.rmtree(path / "index")
    (path / "index").write_text("in the way")
    fs = Counting()
    blocked = through(path, fs)
    assert len(blocked.branches()) == 1 and blocked.resolve("HEAD").step == 19
    assert fs.opened <= 45  # once for the index that fails, once for the footers
    fs.opened = 0
    for _ in range(50):
        with blocked._store.shared():
            pass
    assert fs.opened == 0
    save(repo, 20, x=noise(20))
    for _ in range(10):
        assert blocked.resolve("HEAD").step == 20
    assert fs.opened <= 12, "the new pack, and what each look reads"
    saved = save(through(path, LOCAL), 21, x=noise(21))
    repo.gc()
    assert blocked.resolve("HEAD").id == saved.id
    (path / "index").unlink()
    sound(path, saved)


def test_another_repository_in_the_same_place(tmp_path):
    """A long run's folder was removed and made anew: what the open one knew made it leave out chunks of its commits."""
    path = tmp_path / "run"
    old = ciuic.Repo.init(path)
    old.commit(extra={"x": torch.arange(10_000)})
    shutil.rmtree(path)
    ciuic.Repo.init(path)
    with pytest.raises(ciuic.NotARepository, match="replaced by another repository"):
        old.commit(extra={"x": torch.arange(10_000)})
    fresh = ciuic.Repo(path)
    fresh.commit(extra={"x": torch.arange(10_000)})
    assert fresh.fsck(read_data=True).ok

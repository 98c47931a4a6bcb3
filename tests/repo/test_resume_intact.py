"""A damaged snapshot costs one snapshot: the error says what to go back to, and a run resumes from there by itself."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.objects.ids import Kind
from ciuic.restore import checking
from ciuic.snapshot import SnapshotManager
from ciuic.store.fs import LOCAL, FileSystem, typed_errors
from ciuic.store.pack_format import RECORD_LENGTH

STEPS = 4


def state(step):
    """A model that differs in each step, beside a part that never does."""
    torch.manual_seed(step)
    model = torch.nn.ModuleDict({"moving": torch.nn.Linear(300, 40), "frozen": torch.nn.Linear(200, 30)})
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in model["frozen"].parameters():
            parameter.copy_(torch.rand_like(parameter))
    return model


@pytest.fixture
def ids(path):
    """The snapshots of a run, the oldest first."""
    repo = ciuic.Repo.init(path, chunk_size=4096)
    return [repo.commit(state(step), step=step, rng=False).id for step in range(STEPS)]


def chunk_of(path, id, name, number=0):
    """The record of a chunk: (pack file, offset)."""
    for key, leaf in ciuic.Repo(path).components(id)["model"].items:
        if key == name:
            record = leaf.source.record(number)
            return Path(record.pack.path), record.offset
    raise AssertionError(name)


def flip(pack, offset):
    data = bytearray(pack.read_bytes())
    data[offset + RECORD_LENGTH + 3] ^= 1
    pack.write_bytes(data)


def damage(path, id, name="moving.weight"):
    pack, offset = chunk_of(path, id, name)
    flip(pack, offset)
    return pack, offset


def lose(path, id):
    """The pack that holds the snapshot itself."""
    store = ciuic.Repo(path)._store
    with store.shared():
        pack, _, _ = store.locate(bytes.fromhex(id))
        assert pack.by_id[bytes.fromhex(id)].header.kind is Kind.SNAPSHOT
    os.unlink(pack.path)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_error_says_what_is_damaged_and_where_to_go_back_to(path, ids):
    """Tensor, chunk, pack and offset; then the newest intact snapshot of the branch, its step and the commands."""
    pack, offset = damage(path, ids[-1])
    live = state(50)
    before = weights(live)
    for revision in ("HEAD", "main", ids[-1], f"step:{STEPS - 1}", ciuic.Repo(path).resolve("HEAD")):
        with pytest.raises(ciuic.DamagedData) as caught:
            ciuic.Repo(path).restore(revision, model=live)
        text = str(caught.value)
        assert text.startswith(f"model/moving.weight, chunk 0: {pack} at offset {offset}: chunk ")
        assert f"{ids[-2][:8]} (step {STEPS - 2}): restore that one. `ciuic checkout {ids[-2][:8]}`" in text
        assert caught.value.intact == ids[-2]
    assert all(torch.equal(value, before[name]) for name, value in live.state_dict().items())
    assert ciuic.Repo(path).restore(ids[-2], model=live, rng=False).step == STEPS - 2
    assert torch.equal(live["moving"].weight, state(STEPS - 2)["moving"].weight)


def test_the_one_before_may_be_damaged_too(path, ids):
    """What is offered has been read, every byte of it."""
    for id in ids[1:]:
        damage(path, id)
    with pytest.raises(ciuic.DamagedData) as caught:
        ciuic.Repo(path).checkout("main", model=state(50))
    assert caught.value.intact == ids[0]


def test_there_may_be_none(path, ids):
    """A chunk that all of them need: nothing is offered, and no other snapshot is read for it."""
    damage(path, ids[-1], "frozen.weight")
    with pytest.raises(ciuic.DamagedData) as caught:
        ciuic.Repo(path).restore("HEAD", model=state(50))
    assert caught.value.intact is None and "intact" not in str(caught.value)


@pytest.mark.parametrize("revision", ["HEAD", "main"])
def test_the_snapshot_itself_is_gone(path, ids, revision):
    """Its id is all that the branch knows; what was before it is in the branch's log."""
    lose(path, ids[-1])
    shutil.rmtree(path / "index")
    with pytest.raises(ciuic.MissingObject) as caught:
        ciuic.Repo(path).restore(revision, model=state(50))
    assert caught.value.intact == ids[-2]


class BadSector(FileSystem):
    """Reading one page of one file fails, as a disk does that grows old."""

    where: tuple[str, int] = "", 0

    def read_into(self, descriptor, buffers, offset, path):
        self.look(path, offset, sum(map(len, buffers)))
        return super().read_into(descriptor, buffers, offset, path)

    def read_at(self, descriptor, length, offset, path):
        self.look(path, offset, length)
        return super().read_at(descriptor, length, offset, path)

    def look(self, path, offset, length):
        if path == self.where[0] and offset <= self.where[1] < offset + length:
            with typed_errors(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_sector_that_cannot_be_read(path, ids):
    """Is damage like any other: the tensor is named, and what to go back to. It was a bare input/output error."""
    pack, offset = chunk_of(path, ids[-1], "moving.weight")
    repo = ciuic.Repo(path)
    repo._store.fs = BadSector()
    repo._store.fs.where = str(pack), offset + RECORD_LENGTH + 10
    with pytest.raises(ciuic.StorageError, match=r"model/moving.weight, chunk 0: .*Input/output") as caught:
        repo.restore("HEAD", model=state(50))
    assert f"`ciuic checkout {ids[-2][:8]}`" in str(caught.value)
    report = repo.fsck(read_data=True)
    assert len([problem for problem in report.problems if "Input/output" in problem]) == 1
    assert report.damaged_snapshots == (ids[-1],), "one record is lost, and not all of its pack"
    repo._store.fs = LOCAL
    repo.restore("HEAD", model=state(50))


# The manager


def resumed(path, caplog):
    """As the guide writes it; (the step to go on with, the model)."""
    caplog.clear()
    manager = SnapshotManager(path, 1)
    live, start = state(50), 0
    if manager.has_snapshots():
        latest = manager.get_latest_snapshot()
        manager.restore(latest, model=live, rng=False)
        start = latest.step + 1
    return manager, start, live


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_run_resumes_from_the_newest_intact_one(path, ids, how, caplog):
    """And says so; it goes on on a branch of its own, and the damaged ones stay in the log.

    The same state at the same step is stored anew: that its chunk is known helps nobody when it is damaged.
    """
    for id in ids[-2:]:
        damage(path, id) if how == "flipped" else lose(path, id)
    manager, start, live = resumed(path, caplog)
    assert start == STEPS - 2
    assert torch.equal(live["moving"].weight, state(STEPS - 3)["moving"].weight)
    said = [record.getMessage() for record in caplog.records]
    assert [line[:17] for line in said[:2]] == [f"Snapshot {id[:8]}" for id in reversed(ids[-2:])]
    assert said[2].startswith(f"The newest intact snapshot is {ids[-3][:8]} (step {STEPS - 3})")
    new = manager.save(start, state(start), rng=False, wait=True).result()
    manager.close()
    assert new.parents == (ids[-3],)
    branches = ciuic.Repo(path).branches()
    assert branches == {"main": ids[-1], f"main-step-{STEPS - 3}": new.id}
    again = state(50)
    ciuic.Repo(path).restore("HEAD", model=again, rng=False)
    assert torch.equal(again["moving"].weight, state(start)["moving"].weight)
    _, start, _ = resumed(path, caplog)
    assert start == STEPS - 1 and not caplog.records, "the next run knows nothing of it"


def test_all_is_damaged(path, ids, caplog):
    """A run does not begin anew as if there had been nothing."""
    damage(path, ids[-1], "frozen.weight")
    manager = SnapshotManager(path, 1)
    with pytest.raises(ciuic.DamagedData, match=r"frozen\.weight"):
        manager.has_snapshots()
    for pack in (path / "packs").iterdir():
        pack.unlink()
    with pytest.raises(ciuic.MissingObject):
        SnapshotManager(path, 1).get_latest_snapshot()


def test_a_sound_repository_is_read_once(path, ids, monkeypatch, caplog):
    """What the manager has read to choose is not read again before the restore; and later it is not read at all."""
    reads = []
    original = checking.damaged
    monkeypatch.setattr(checking, "damaged", lambda records: reads.append(1) or original(records))
    manager, start, _ = resumed(path, caplog)
    assert (start, len(reads)) == (STEPS, 1)
    assert manager.get_latest_snapshot().id == ids[-1] and len(reads) == 1
    manager.save(start, state(start), wait=True)
    assert manager.get_latest_snapshot().step == start and len(reads) == 1
    manager.restore("HEAD", model=state(50))
    assert len(reads) == 2, "what is restored by name is read before anything is changed"
    assert not caplog.records
    manager.close()


def test_damage_after_it_was_read(path, ids, caplog):
    """What rots between the choice and the restore is still noticed, by its id."""
    manager = SnapshotManager(path, 1)
    latest = manager.get_latest_snapshot()
    damage(path, ids[-1])
    with pytest.raises((ciuic.RestoreInterrupted, ciuic.DamagedData), match=r"moving\.weight"):
        manager.restore(latest, model=state(50))
    with pytest.raises(ciuic.DamagedData):
        manager.restore(latest, model=state(50))


def test_pruned_ones_are_passed_over_in_silence(path, ids, caplog):
    """They are not damaged."""
    ciuic.Repo(path).prune(ids[-1])
    _, start, _ = resumed(path, caplog)
    assert start == STEPS - 1 and not caplog.records


def test_newest_intact_of_a_line(path, ids):
    """By branch, by any revision, and of nothing."""
    repo = ciuic.Repo(path)
    damage(path, ids[-1])
    assert repo.newest_intact().id == repo.newest_intact("main").id == repo.newest_intact(ids[-1]).id == ids[-2]
    assert repo.newest_intact("main~2").id == ids[-3]
    assert ciuic.Repo.init(path.parent / "new").newest_intact() is None

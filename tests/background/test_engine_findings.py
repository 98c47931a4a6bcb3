"""What a review found in the engine, a test each."""

import gc
import logging
import os
import signal
import threading
import weakref
from pathlib import Path

import pytest
import torch
from test_engine import until
from torch import nn

import ciuic
from ciuic.capture import arena as arena_module
from ciuic.capture.arena import Arena
from ciuic.capture.copying import Copy
from ciuic.snapshot import SnapshotManager


@pytest.fixture
def run():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 128))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def step_in_time(optimizer):
    """A step in another thread: whether it ended."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    thread = threading.Thread(target=optimizer.step, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_two_views_that_begin_at_one_address(repo):
    """They had the same strides and sizes, were taken for one tensor, and one was stored with the other's bytes."""
    x, y = torch.arange(32.0).reshape(4, 8), torch.arange(64.0)
    extra = {"a": x[:2, :4], "b": x[:4, :2], "c": y[::2], "d": y.view(torch.float64)[::2], "e": y, "f": y.view(8, 8)}
    expected = {name: tensor.clone() for name, tensor in extra.items()}
    repo.commit(extra=extra, wait=False).result(60)
    stored = repo.load("HEAD")["extra"]
    assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())


def test_a_callback_that_raises(run, repo, slow_copy, caplog):
    """It ended the copying thread, and the next step waited for ever."""
    model, optimizer = run
    slow_copy.held = True
    torn = repo.commit(model, optimizer, wait=False)
    torn.add_done_callback(lambda pending: pending.result())
    model[0].weight.data.add_(1)
    slow_copy.held = False
    assert isinstance(torn.exception(60), ciuic.TornSnapshot)
    good = repo.commit(model, optimizer, wait=False)
    assert step_in_time(optimizer) and good.result(60)
    assert any("callback" in record.getMessage() for record in caplog.records)


def test_a_log_filter_that_raises(run, repo, slow_copy):
    """The same, by another way."""

    def refuse(record):
        raise ValueError("a filter of the user's")

    model, optimizer = run
    logging.getLogger("ciuic").addFilter(refuse)
    try:
        slow_copy.held = True
        torn = repo.commit(model, optimizer, wait=False)
        model[0].weight.data.add_(1)
        slow_copy.held = False
        assert isinstance(torn.exception(60), ciuic.TornSnapshot)
        good = repo.commit(model, optimizer, wait=False)
        assert step_in_time(optimizer) and good.result(60)
    finally:
        logging.getLogger("ciuic").removeFilter(refuse)


def test_no_thread_can_be_started_for_a_while(run, repo, monkeypatch):
    """A limit of processes: the snapshot is copied in the call, and the next ones as ever."""
    model, optimizer = run
    repo.prepare(model, optimizer)
    plain = threading.Thread.start

    def refuse(self):
        if self.name == "ciuic-copier":
            raise RuntimeError("can't start new thread")
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        first = repo.commit(model, optimizer, step=0, wait=False)
        assert step_in_time(optimizer)
    assert [each.result(60).step for each in (first, repo.commit(model, optimizer, step=1, wait=False))] == [0, 1]


def test_closed_by_a_signal_handler_in_the_middle_of_a_commit(run, tmp_path, monkeypatch):
    """The order went into a queue that nobody read any more, with the fence up: the next step waited for ever."""
    model, optimizer = run
    repo = ciuic.Repo.init(tmp_path / "run")
    repo.commit(model, optimizer, step=0, wait=False).result(60)
    engine = repo._saving.engine()
    monkeypatch.setattr(engine, "_track", lambda *_: signal.raise_signal(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, lambda *_: repo.close())
    try:
        pending = repo.commit(model, optimizer, step=1, wait=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert step_in_time(optimizer)
    assert isinstance(pending.exception(60), ciuic.WriterFailed)


def test_interrupted_anywhere_in_the_call(run, repo, monkeypatch):
    """Ctrl-C after the slot was taken leaked it: with one slot, every later snapshot waited for it."""
    model, optimizer = run
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)
    repo.prepare(model, optimizer)
    engine = repo._saving.engine()

    def interrupt(*_):
        raise KeyboardInterrupt

    for place in ("_track", "_enqueue"):
        for _ in range(3):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(engine, place, interrupt)
                repo.commit(model, optimizer, wait=False)
            assert step_in_time(optimizer)
    assert repo.commit(model, optimizer, wait=False, busy_timeout=20).result(60)


def test_a_retry_is_one_snapshot(run, tmp_path, opened):
    """It was due at every step until a later snapshot had been written."""
    model, optimizer = run
    manager = opened(SnapshotManager(tmp_path / "run", 100))
    failed = ciuic.PendingSnapshot(99)
    failed.set_exception(ciuic.StorageError("full"))
    manager._ended(failed)
    due = []
    for step in range(100, 110):
        due += [step] * manager.due(step)
        manager.save(step, model, optimizer)
    assert due == [100]


def test_an_older_success_does_not_call_off_a_retry(tmp_path, opened):
    """Step 199 had failed while 99 was still being written."""
    manager = opened(SnapshotManager(tmp_path / "run", 100))
    older, newer = (ciuic.PendingSnapshot(step) for step in (99, 199))
    newer.set_exception(ciuic.StorageError("full"))
    manager._ended(newer)
    older.set_result(manager.repo.commit(extra={"x": 1}, step=99))
    manager._ended(older)
    assert manager.due(200)


def test_a_change_of_what_is_not_row_major_is_noticed(repo, slow_copy):
    """Channels last: only the version counter was looked at, and ``.data`` does not move it."""
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = model[0].weight.detach().clone()
    assert torch.equal(repo.load(repo.commit(model, optimizer, wait=False).result(60))["model"]["0.weight"], kept)
    slow_copy.held = True
    pending = repo.commit(model, optimizer, wait=False)
    model[0].weight.data.zero_()
    model[1].weight.data.zero_()
    slow_copy.held = False
    assert isinstance(pending.exception(60), ciuic.TornSnapshot)


def test_what_was_copied_is_not_held_on_to(run, tmp_path):
    """The waiting thread kept the last order, and with it a model that was long gone."""
    repo = ciuic.Repo.init(tmp_path / "run")
    model = nn.Linear(512, 512)
    repo.commit(model, wait=False).result(60)
    until(lambda: repo._saving.engine()._copier._orders.empty())
    weight = weakref.ref(model.weight)
    del model
    gc.collect()
    assert weight() is None
    until(lambda: not any(type(each) is Copy for each in gc.get_objects()))
    repo.close()


def test_the_writer_lets_go_of_memory_that_has_grown(repo, monkeypatch):
    """It kept the old slots mapped beside the new ones: twice the memory that was agreed on."""
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)
    for size in (1 << 20, 1 << 20, 3 << 20, 3 << 20, 9 << 20, 9 << 20):
        repo.commit(extra={"x": torch.zeros(size, dtype=torch.uint8)}, wait=False).result(60)
    maps = Path(f"/proc/{repo._saving.engine()._writer.pid}/maps").read_text().splitlines()
    mapped = [line.split()[0].split("-") for line in maps if "ciuic-slot" in line]
    assert mapped and all(int(stop, 16) - int(start, 16) >= 9 << 20 for start, stop in mapped)


def test_a_slot_that_could_not_grow_once(monkeypatch):
    """A slot without memory could not be compared with one that has some: a TypeError ended training."""
    arena = Arena(2)
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)
    kept = arena.take(10, 0)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(arena_module, "create", lambda size: (_ for _ in ()).throw(OSError("no")))
        arena.take(10, 0)
    arena.give_back(kept)
    assert arena.take(10, 0) is kept and arena.take(10, 0) is not None


def test_a_slot_that_is_being_made_ready_is_free(monkeypatch):
    """A snapshot was skipped, "every slot was in use", though only one was under way."""
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)
    arena = Arena(1)
    arena.give_back(arena.take(10, 0))
    taken = []
    monkeypatch.setattr(
        arena_module.Mapping,
        "prepare_piece",
        lambda self: (taker.start(), until(lambda: arena._wanted == 1), None)[-1],
    )
    taker = threading.Thread(target=lambda: taken.append(arena.take(10, 0)))
    arena.prepare_piece(10)
    taker.join()
    assert taken[0] is not None


def test_a_snapshot_taken_in_the_call_is_counted_too(run, repo, monkeypatch, warnings_of):
    """Where no slot fits."""
    monkeypatch.setattr(arena_module, "available_bytes", lambda: 0)
    repo.commit(*run, step=0, wait=False)
    tmp = Path(repo.path) / "tmp"
    tmp.rename(tmp.with_name("gone"))
    repo.commit(*run, step=1, wait=False)
    tmp.with_name("gone").rename(tmp)
    assert (repo.counts["published"], repo.counts["failed"]) == (1, 1)
    assert any("No snapshot of step 1" in message for message in warnings_of())


def test_a_callback_that_waits_for_snapshots(run, repo):
    """It runs in the thread that they need: it is told so instead of waiting for ever."""
    model, optimizer = run
    told = []

    def wait(pending):
        try:
            repo.wait()
        except ciuic.BackgroundError as error:
            told.append(str(error))

    repo.commit(model, optimizer, wait=False).add_done_callback(wait)
    repo.commit(model, optimizer, wait=False).result(60)
    until(lambda: bool(told))


def test_a_state_without_a_tensor(repo):
    """A slot of no bytes."""
    repo.commit(extra={"a": 1}, rng=False, wait=False).result(60)
    assert repo.load("HEAD")["extra"]["a"] == 1


def test_a_forked_child_holds_no_slot(run, repo):
    """A worker that outlives the training would have kept its memory."""
    repo.commit(*run, wait=False).result(60)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            links = [os.readlink(f"/proc/self/fd/{number}") for number in range(200) if is_open(number)]
            os.write(write, str(sum("ciuic-slot" in link for link in links)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"0"
    os.close(read)
    os.close(write)


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

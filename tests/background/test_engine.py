"""The engine: order, slots, policy, and what is left when it is gone."""

import contextlib
import gc
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

import ciuic
from ciuic.capture import arena as arena_module
from ciuic.snapshot import SnapshotManager

SECOND = 1.0


@pytest.fixture
def run():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.fixture
def two_slots(monkeypatch):
    """No more than were asked for, although the state is small."""
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)


@pytest.fixture
def stopped():
    """``stopped(repo)`` stops its writer, as Ctrl-Z would; it goes on at the end of the test."""
    pids = []

    def stop(repo):
        writer = repo._saving.engine()._writer
        until(lambda: writer.pid is not None)
        os.kill(writer.pid, signal.SIGSTOP)
        pids.append(writer.pid)

    yield stop
    for pid in pids:
        resume(pid)


def resume(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_returns_a_pending_snapshot(run, repo, train):
    """Staged, then durable: the result is what a waiting commit returns, with what it cost."""
    model, optimizer = run
    train(model, optimizer)
    pending = repo.commit(model, optimizer, step=3, epoch=1, message="three", metrics={"loss": 0.5}, wait=False)
    assert pending.staged(60) and pending.exception(60) is None and pending.done()
    snapshot = pending.result()
    assert (snapshot.step, snapshot.epoch, snapshot.message, snapshot.metrics) == (3, 1, "three", {"loss": 0.5})
    assert repo.resolve("main") == snapshot == ciuic.Repo(repo.path).resolve("HEAD")
    assert set(snapshot.cost) == {"call", "fence", "copy", "encode", "check", "write"}
    assert all(seconds >= 0 for seconds in snapshot.cost.values()) and snapshot.cost["call"] > 0
    assert repr(pending) == f"PendingSnapshot(step=3, {snapshot!r})"
    assert repo.counts["published"] == 1 and sum(repo.counts.values()) == 1


def test_the_callers_values_are_copied_in_the_call(run, repo, slow_copy):
    """Lists and dicts that the loop goes on to change."""
    model, optimizer = run
    extra, config = {"history": [1, 2], "ema": torch.ones(3)}, {"schedule": [10, 20]}
    pending = repo.commit(model, optimizer, extra=extra, config=config, wait=False)
    extra["history"].append(3)
    extra["ema"].zero_()
    config["schedule"].append(30)
    assert pending.result(60).config == {"schedule": [10, 20]}
    stored = repo.load("HEAD")["extra"]
    assert stored["history"] == [1, 2] and stored["ema"].tolist() == [1, 1, 1]


def test_waiting_and_pending_commits_publish_in_call_order(run, repo, train):
    """However they are mixed, they are one chain."""
    model, optimizer = run
    taken = []
    for step in range(8):
        train(model, optimizer)
        taken.append(repo.commit(model, optimizer, step=step, wait=step % 3 == 2))
    snapshots = [each if isinstance(each, ciuic.Snapshot) else each.result(60) for each in taken]
    assert [each.step for each in repo.log()] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [each.id for each in repo.log()] == [each.id for each in snapshots][::-1]
    times = [each.timestamp for each in snapshots]
    assert times == sorted(times)


def test_checkout_and_reset_come_after_what_is_pending(run, repo, train):
    """And the next snapshot goes on from there: on a new branch after a restore, on the branch after a reset."""
    model, optimizer = run
    first = repo.commit(model, optimizer, step=0, wait=False)
    train(model, optimizer)
    second = repo.commit(model, optimizer, step=1, wait=False)
    assert repo.restore("HEAD~1", model=model, optimizer=optimizer).id == first.result().id
    third = repo.commit(model, optimizer, step=2, wait=False)
    assert third.result(60).parents == (first.result().id,)
    assert repo.branches() == {"main": second.result().id, "main-step-0": third.result().id}
    repo.switch("main")
    repo.commit(model, optimizer, step=3, wait=False)
    repo.reset("main~1")
    assert repo.commit(model, optimizer, step=4, wait=False).result(60).parents == (second.result().id,)


def test_an_unchanged_state_is_said_to_be(run, repo, warnings_of):
    """A loop that saves and does not train."""
    model, optimizer = run
    repo.commit(model, optimizer, step=0, wait=False)
    repo.commit(model, optimizer, step=1, wait=False).result(60)
    assert repo.counts["unchanged"] == 1 and repo.counts["published"] == 2
    assert "The snapshot of step 1 equals its parent" in warnings_of()[0]


def test_two_repositories_in_one_process(run, tmp_path, opened, train):
    """Each with a writer of its own; one fence for both."""
    model, optimizer = run
    repos = [opened(ciuic.Repo.init(tmp_path / name)) for name in "ab"]
    for step in range(4):
        train(model, optimizer)
        for repo in repos:
            repo.commit(model, optimizer, step=step, wait=False)
    for repo in repos:
        repo.wait()
    assert [[each.step for each in repo.log()] for repo in repos] == [[3, 2, 1, 0]] * 2
    assert repos[0].resolve("HEAD").tree == repos[1].resolve("HEAD").tree


def test_threads_may_commit_at_once(run, repo):
    """None is lost, and they are one chain."""
    model, optimizer = run
    pending = []
    threads = [
        threading.Thread(target=lambda step=step: pending.append(repo.commit(model, optimizer, step=step, wait=False)))
        for step in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.result(60).step for each in pending) == [*range(6)] == sorted(each.step for each in repo.log())


def test_what_cannot_be_stored_is_refused_at_once(repo):
    """As by a waiting commit."""
    with pytest.raises(ciuic.UnsupportedState, match="extra/x"):
        repo.commit(extra={"x": object()}, wait=False)
    assert sum(repo.counts.values()) == 0


# Slots


def test_with_every_slot_in_use_it_skips_if_asked_to(run, repo, two_slots, stopped, warnings_of):
    """Counted, logged, and an exception for who looks; the others are published once the writer goes on."""
    model, optimizer = run
    repo.prepare(model, optimizer)
    stopped(repo)
    kept = [repo.commit(model, optimizer, step=step, wait=False) for step in range(2)]
    assert repo.busy
    skipped = repo.commit(model, optimizer, step=2, wait=False, when_busy="skip")
    late = repo.commit(model, optimizer, step=3, wait=False, busy_timeout=0.01)
    for each in (skipped, late):
        assert not each.staged() and isinstance(each.exception(), ciuic.SnapshotSkipped)
    assert repo.counts["skipped"] == 2 and "step 2 was skipped" in warnings_of()[0]
    for step in range(4, 14):
        repo.commit(model, optimizer, step=step, wait=False, when_busy="skip")
    said = [each for each in warnings_of() if "was skipped" in each]
    assert len(said) == 2 and said[-1].endswith("8 were skipped so far."), "a line each is more than anybody reads"
    resume(repo._saving.engine()._writer.pid)
    assert [each.result(60).step for each in kept] == [0, 1]


def test_with_every_slot_in_use_it_waits_for_one(run, repo, two_slots, stopped):
    """An explicit commit never skips."""
    model, optimizer = run
    repo.prepare(model, optimizer)
    stopped(repo)
    for step in range(2):
        repo.commit(model, optimizer, step=step, wait=False)
    goes_on = threading.Timer(0.1, resume, [repo._saving.engine()._writer.pid])
    goes_on.start()
    assert repo.commit(model, optimizer, step=2, wait=False).result(60).step == 2
    goes_on.join()
    assert repo.counts["skipped"] == 0


def test_the_manager_skips_and_takes_the_next_as_soon_as_it_can(run, tmp_path, two_slots, stopped, opened):
    """It waits no longer than a step takes."""
    model, optimizer = run
    manager = opened(SnapshotManager(tmp_path / "run", auto_save_interval=2))
    manager.prepare(model, optimizer)
    stopped(manager.repo)
    taken = {step: manager.save(step, model, optimizer) for step in range(8)}
    assert [step for step, each in taken.items() if each is not None] == [1, 3, 5, 7]
    assert manager.counts["skipped"] == 2 and manager.failures == 0
    resume(manager.repo._saving.engine()._writer.pid)
    manager.wait()
    assert manager.due(8) and manager.save(8, model, optimizer).result(60).step == 8
    assert [each.step for each in manager.snapshots()] == [8, 3, 1]


def test_where_no_slot_fits_it_waits_in_the_call(run, repo, monkeypatch, warnings_of):
    """With a notice; the snapshot is durable on return."""
    monkeypatch.setattr(arena_module, "available_bytes", lambda: 1 << 20)
    model, optimizer = run
    pending = repo.commit(model, optimizer, step=0, wait=False)
    assert pending.done() and pending.staged() and repo.resolve("HEAD") == pending.result()
    assert "step 0 is taken while training waits: a slot of" in warnings_of()[0]
    repo.prepare(model, optimizer)
    assert "Snapshots will be taken while training waits: a slot of" in warnings_of()[0]


def test_prepare_forecasts_what_the_optimizer_will_add(run, repo, two_slots, train):
    """No slot has to grow after the first step."""
    model, optimizer = run
    repo.prepare(model, optimizer)
    arena = repo._saving.engine()._arena
    keys = [slot.key for slot in arena._slots]
    assert len(keys) == 2 and all(slot.mapping.ready for slot in arena._slots)
    for step in range(3):
        train(model, optimizer)
        repo.commit(model, optimizer, step=step, wait=False).result(60)
    assert [slot.key for slot in arena._slots] == keys


# Failures


def test_a_failure_in_the_background_is_logged_counted_and_raised_by_who_asks(run, repo, warnings_of):
    """The branch stays as it was, and the next snapshot works."""
    model, optimizer = run
    os.rename(os.path.join(repo.path, "tmp"), os.path.join(repo.path, "gone"))
    failed = repo.commit(model, optimizer, step=0, wait=False)
    assert isinstance(failed.exception(60), ciuic.StorageError)
    os.rename(os.path.join(repo.path, "gone"), os.path.join(repo.path, "tmp"))
    assert repo.counts["failed"] == 1 and any("step 0" in message for message in warnings_of())
    assert repo.commit(model, optimizer, step=1, wait=False).result(60).parents == ()


def test_on_error_raise_raises_at_the_next_call(run, tmp_path, opened):
    """And only once."""
    model, optimizer = run
    manager = opened(SnapshotManager(tmp_path / "run", 1, on_error="raise"))
    os.rename(tmp_path / "run/tmp", tmp_path / "run/gone")
    assert manager.save(0, model, optimizer).exception(60) is not None
    os.rename(tmp_path / "run/gone", tmp_path / "run/tmp")
    with pytest.raises(ciuic.StorageError):
        manager.save(1, model, optimizer)
    assert manager.save(2, model, optimizer).result(60).step == 2 and manager.failures == 1


def test_the_manager_tries_again_after_a_failure(run, tmp_path, opened):
    """1, 2, … steps later."""
    model, optimizer = run
    manager = opened(SnapshotManager(tmp_path / "run", 10))
    os.rename(tmp_path / "run/tmp", tmp_path / "run/gone")
    assert manager.save(9, model, optimizer).exception(60) is not None
    os.rename(tmp_path / "run/gone", tmp_path / "run/tmp")
    assert manager.save(10, model, optimizer).result(60).step == 10
    assert manager.failures == 1 and not manager.due(11)


def test_a_writer_that_is_killed_is_replaced(run, repo, train, warnings_of):
    """Nothing that was staged is lost; it is said and counted."""
    model, optimizer = run
    taken = []
    for step in range(12):
        train(model, optimizer)
        taken.append(repo.commit(model, optimizer, step=step, wait=False))
        if step % 4 == 3:
            until(lambda: repo._saving.engine()._writer.pid is not None)
            os.kill(repo._saving.engine()._writer.pid, signal.SIGKILL)
            taken[-1].result(60)
    assert [each.result(60).step for each in taken] == [*range(12)]
    assert [each.step for each in repo.log()] == [*range(12)][::-1] and set(repo.branches()) == {"main"}
    repo.wait()
    assert repo.counts["writer_deaths"] >= 2 and any("writer" in message for message in warnings_of())


def test_a_writer_that_hangs_is_replaced(run, tmp_path, opened, stopped):
    """After the stated time-out; whoever waits for a slot or a result waits no longer than that."""
    model, optimizer = run
    repo = opened(ciuic.Repo.init(tmp_path / "run", writer_timeout=1.0))
    repo.commit(model, optimizer, step=0, wait=False).result(60)
    first = repo._saving.engine()._writer.pid
    stopped(repo)
    assert repo.commit(model, optimizer, step=1, wait=False).result(60).step == 1
    assert repo.counts["writer_stalls"] == 1 and not alive(first)


# What is left


def test_close_leaves_nothing_and_the_object_can_be_used_again(run, tmp_path):
    """No descriptor, no process, no thread, no file; ``with`` does it too."""
    model, optimizer = run
    with ciuic.Repo.init(tmp_path / "warm") as warm:
        warm.commit(model, optimizer, wait=False)
    gc.collect()  # what other tests left would go in between
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    repo = ciuic.Repo.init(tmp_path / "run")
    pids = []
    for step in range(2):
        repo.commit(model, optimizer, step=step, wait=False).result(60)
        pids.append(repo._saving.engine()._writer.pid)
        repo.close()
    repo.close()
    until(lambda: threading.active_count() == before[1])
    assert len(os.listdir("/proc/self/fd")) == before[0]
    assert not any(alive(pid) for pid in pids) and os.listdir(tmp_path / "run/tmp") == []
    assert [each.step for each in repo.log()] == [1, 0]


def test_a_repository_that_nobody_holds_any_more_is_closed(run, tmp_path):
    """Its last snapshot is published all the same."""
    model, optimizer = run
    repo = ciuic.Repo.init(tmp_path / "run")
    pending = repo.commit(model, optimizer, step=0, wait=False)
    writer = repo._saving.engine()._writer
    del repo
    gc.collect()
    assert pending.result(60).step == 0
    until(lambda: writer.pid is None or not alive(writer.pid))

"""Pruning: a snapshot gives up its state and keeps its place in history."""

import pytest
import torch

import ciuic


@pytest.fixture
def trained(repo):
    """Three snapshots of a model and its optimizer."""
    model = torch.nn.Linear(60, 60)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(3):
        model(torch.ones(1, 60)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        repo.commit(model, optimizer, step=step, metrics={"loss": 3.0 - step})
    return repo, model, optimizer


def test_a_pruned_snapshot_stays_in_the_log(trained):
    """With its step, metrics and place; its state reads as pruned, never as damaged, also after gc."""
    repo, model, optimizer = trained
    victim = repo.resolve("main~1")
    repo.prune("main~1")
    for _ in range(2):
        assert [snapshot.step for snapshot in repo.log()] == [2, 1, 0]
        assert repo.resolve("step:1") == victim and repo.resolve("best:loss").step == 2
        assert repo.prune_state(victim.id) == {"*"} and repo.prunes() == {victim.id: {"*"}}
        for action in (
            lambda: repo.restore(victim, model=model),
            lambda: repo.checkout(victim, model=model),
            lambda: repo.load(victim),
            lambda: repo.components(victim),
        ):
            with pytest.raises(ciuic.Pruned, match=rf"{victim.id[:8]} .*was pruned"):
                action()
        assert repo.fsck(read_data=True).problems == ()
        repo.gc()
    repo.restore("main~2", model=model, optimizer=optimizer)
    assert repo.head().branch == "main"


def test_gc_frees_what_only_pruned_snapshots_need(trained):
    """And nothing else."""
    repo, _, _ = trained
    before = repo.stats().stored_bytes
    assert repo.gc().freed_bytes == 0
    repo.prune("main~1")
    repo.prune("main~2", "optimizer")
    assert repo.gc().freed_bytes > 10_000
    assert repo.stats().stored_bytes < before - 5_000  # some of it the snapshots that stay rest on
    state = repo.load("main~2")
    assert state["model"]["weight"].shape == (60, 60)


def test_a_pruned_component_leaves_the_others(trained):
    """The model is there, the optimizer raises Pruned."""
    repo, model, optimizer = trained
    repo.prune("main~1", "optimizer")
    repo.gc()
    repo.restore("main~1", model=model)
    with pytest.raises(ciuic.Pruned, match="The optimizer of"):
        repo.restore("main~1", model=model, optimizer=optimizer)
    state = repo.load("main~1")
    assert "optimizer" in state and state["model"]["bias"].shape == (60,)
    with pytest.raises(ciuic.Pruned, match="The optimizer of"):
        state["optimizer"]
    assert set(repo.components("main~1")) == {"model", "rng"}


def test_pruned_generators_are_skipped_unless_demanded(trained):
    """A restore goes on without them."""
    repo, model, optimizer = trained
    repo.prune("HEAD", "rng")
    before = torch.get_rng_state()
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ciuic.Pruned):
        repo.restore("HEAD", model=model, rng=True)


def test_pruning_is_said_once_and_only_of_what_is_there(trained):
    """Twice is once; an unknown component is an error that lists those that there are."""
    repo, _, _ = trained
    repo.prune("main~1", "optimizer")
    repo.prune("main~1", "optimizer")
    repo.prune("main~1")
    repo.prune("main~1", "model")
    assert repo.prune_state(repo.resolve("main~1").id) == {"optimizer", "*"}
    with pytest.raises(ciuic.UnknownPath, match="has no component 'modle'; it has model, optimizer, rng"):
        repo.prune("main", "modle")


def test_the_state_of_a_pruned_snapshot_that_is_committed_again_lives(repo):
    """Other snapshots with the same content keep it."""
    tensor = torch.arange(5000.0)
    first = repo.commit(extra={"x": tensor}, rng=False)
    second = repo.commit(extra={"x": tensor}, rng=False)
    repo.prune(first)
    repo.gc()
    assert torch.equal(repo.load(second)["extra"]["x"], tensor)


def test_the_manager_skips_pruned_snapshots(path):
    """The newest one that a run can resume from; none, when all is gone."""
    from ciuic.snapshot import SnapshotManager

    manager = SnapshotManager(path)
    model = torch.nn.Linear(2, 2)
    for step in range(4):
        manager.save(step, model, force=True, wait=True)
    manager.repo.prune("HEAD")
    manager.repo.prune("HEAD~1", "model")
    manager.repo.prune("HEAD~2", "rng")
    latest = manager.get_latest_snapshot()
    assert latest.step == 1 and manager.has_snapshots()
    manager.restore(latest, model=model)
    assert len(manager.snapshots()) == 4
    for revision in ("HEAD~2", "HEAD~3"):
        manager.repo.prune(revision)
    assert manager.get_latest_snapshot() is None and not manager.has_snapshots()

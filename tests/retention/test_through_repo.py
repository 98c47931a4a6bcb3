"""Retention as people ask for it: in ``Repo`` and ``SnapshotManager``, by config.toml, in the writer process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ciuic
from ciuic.retention import DropComponents, KeepBest, KeepLast
from ciuic.snapshot import SnapshotManager

WAIT_S = 300


def steps(repo: ciuic.Repo) -> list[int | None]:
    """Of the snapshots that were not pruned whole, oldest first."""
    prunes = repo.prunes()
    return [each.step for each in repo.log() if "*" not in prunes.get(each.id, ())][::-1]


def train(take: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    for step in range(number):
        model(torch.ones(1, 40)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        take(step)


@pytest.fixture
def objects() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(40, 40)
    return model, torch.optim.Adam(model.parameters())


def test_the_writer_process_prunes_and_collects(tmp_path: Path, objects: Any) -> None:
    """After each snapshot, beside training; what it keeps restores, what it let go is ``Pruned`` and takes no room."""
    model, optimizer = objects
    path = tmp_path / "run"
    with SnapshotManager(path, retention=[KeepLast(2), "keep-best=loss:1"]) as manager:
        train(
            lambda step: manager.save(step, model, optimizer, force=True, metrics={"loss": abs(step - 3.0)}),
            model, optimizer, 8,
        )  # fmt: skip
        assert manager.wait(WAIT_S)
    repo = ciuic.Repo(path)
    assert steps(repo) == [3, 6, 7] and len(list(repo.log())) == 8
    assert manager.counts["published"] == 8 and manager.counts["failed"] == 0
    weight = model.weight.detach().clone()
    repo.restore("step:3", model=model, optimizer=optimizer)
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert torch.equal(model.weight, weight)
    with pytest.raises(ciuic.Pruned):
        repo.restore("step:5", model=model)
    assert repo.gc(dry_run=True).kept_bytes < 4 * max(each.added_bytes for each in repo.log())


def test_a_run_ends_at_the_size_that_its_policy_implies(tmp_path: Path, objects: Any) -> None:
    """However fast it saves: what its snapshots need, and at most a tenth more."""
    model, optimizer = objects
    with SnapshotManager(tmp_path / "run", retention=["keep-every=40"], when_busy="wait") as manager:
        train(lambda step: manager.save(step, model, optimizer, force=True), model, optimizer, 200)
    packs = tmp_path / "run" / "packs"
    size = sum(each.stat().st_size for each in packs.iterdir())
    repo = ciuic.Repo(tmp_path / "run")
    assert len(steps(repo)) == 6
    repo.gc()
    assert size <= 1.1 * sum(each.stat().st_size for each in packs.iterdir())


def test_config_toml_holds_for_every_run(tmp_path: Path, objects: Any) -> None:
    """Waiting or not; what the call says goes before it, and an empty list means none."""
    model, optimizer = objects
    path = tmp_path / "run"
    ciuic.Repo.init(path).close()
    (path / "config.toml").write_text('[retention]\nkeep-last = 3\ndrop = "optimizer:1"\n')
    with ciuic.Repo(path) as repo:
        train(lambda step: repo.commit(model, optimizer, step=step, wait=step % 2 == 0), model, optimizer, 6)
        assert repo.wait(WAIT_S)
    assert steps(repo) == [3, 4, 5]
    assert [repo.prune_state(repo.resolve(f"step:{step}").id) for step in (3, 4, 5)] == [{"optimizer"}] * 2 + [set()]
    with ciuic.Repo(path, retention=[]) as kept:
        train(lambda step: kept.commit(model, optimizer, step=6 + step), model, optimizer, 4)
    assert steps(kept) == [3, 4, 5, 6, 7, 8, 9]


def test_a_wrong_table_stops_no_training(tmp_path: Path, objects: Any, caplog: Any) -> None:
    """Nothing is pruned by what was misunderstood, and it is said; a wrong argument is an error at once."""
    model, optimizer = objects
    ciuic.Repo.init(tmp_path / "run").close()
    (tmp_path / "run" / "config.toml").write_text("[retention]\nkeep-lats = 3\n")
    repo = ciuic.Repo(tmp_path / "run")
    train(lambda step: repo.commit(model, optimizer, step=step), model, optimizer, 4)
    assert steps(repo) == [0, 1, 2, 3]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "Nothing will be pruned" in said[0] and "keep-lats" in said[0]
    with pytest.raises(ValueError, match="is no retention policy"):
        ciuic.Repo(tmp_path / "run", retention=["keep-lats=3"])


def test_a_run_resumes_from_what_is_kept(tmp_path: Path, objects: Any) -> None:
    """The next run finds the newest snapshot, and its policies go on with what the last run has left."""
    model, optimizer = objects
    for first in (0, 5):
        with SnapshotManager(tmp_path / "run", retention=[KeepLast(2)]) as manager:
            latest = manager.get_latest_snapshot()
            if latest is not None:
                assert latest.step == 4
                manager.restore(latest, model=model, optimizer=optimizer)
            train(lambda step: manager.save(first + step, model, optimizer, force=True), model, optimizer, 5)  # noqa: B023
            assert manager.wait(WAIT_S)
    assert steps(ciuic.Repo(tmp_path / "run")) == [8, 9]


def test_a_dry_run_says_what_a_prune_then_does(tmp_path: Path, objects: Any) -> None:
    """The same snapshots and components; and gc then frees no less than was said."""
    model, optimizer = objects
    repo = ciuic.Repo.init(tmp_path / "run")
    train(lambda step: repo.commit(model, optimizer, step=step, metrics={"loss": -step}), model, optimizer, 6)
    policies = [KeepBest(2, "loss", "max"), DropComponents(("optimizer",), snapshots=1)]
    forecast = repo.prune_by(policies, dry_run=True)
    assert repo.prunes() == {}
    done = repo.prune_by(policies)
    assert done.pruned == forecast.pruned and done.kept == forecast.kept
    assert [(each.step, why) for each, why in done.kept] == [
        (5, ("HEAD",)), (1, ("keep-best=loss:2:max",)), (0, ("keep-best=loss:2:max",)),
    ]  # fmt: skip
    freed = repo.gc().freed_bytes
    assert freed >= 0.9 * forecast.freed_bytes > 0  # more, where it can encode anew what rests on what has gone
    with pytest.raises(ValueError, match="no policy"):
        repo.prune_by()

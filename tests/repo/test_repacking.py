"""Retention, gc, repack and flatten over a real training on three branches, saved at every step."""

import random
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.store.pack import Pack


class Training:
    """A small model, AdamW over its float32 weights, and the bfloat16 copy that would compute."""

    def __init__(self):
        torch.manual_seed(5)
        self.model = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.Linear(64, 8))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.half = {name: value.to(torch.bfloat16) for name, value in self.model.state_dict().items()}
        self.frozen = torch.zeros(5000, dtype=torch.int64)

    def step(self):
        loss = self.model(torch.randn(16, 48)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for name, value in self.model.state_dict().items():
            self.half[name] = value.to(torch.bfloat16)
        self.frozen[0] += 1

    def commit(self, repo, step):
        """A snapshot, stored by the writer process, which remembers the bytes of the one before."""
        extra = {"half": self.half, "frozen": self.frozen}
        return repo.commit(self.model, self.optimizer, extra=extra, step=step, wait=False, rng=False)

    def bytes(self):
        """Everything that a snapshot holds."""
        moments = [state[name] for state in self.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        tensors = [*self.model.state_dict().values(), *moments, *self.half.values(), self.frozen]
        return [tensor.detach().flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors]


def rows(repo):
    store = repo._store
    return [
        row
        for path in Path(store.path, "packs").iterdir()
        for row in Pack(store.fs, str(path), path.stem, store.repository_id).rows
    ]


@pytest.fixture
def saved(path):
    """A repository of forty steps on three branches, and what each snapshot held."""
    states = {}
    with ciuic.Repo.init(path, chunk_size=8192) as repo:
        training = Training()
        for branch, start, steps in (("main", None, 20), ("left", 8, 10), ("right", 14, 10)):
            if start is not None:
                repo.wait()
                at = next(snapshot for snapshot in repo.log("main") if snapshot.step == start)
                repo.branch(branch, at)
                repo.checkout(branch, model=training.model, optimizer=training.optimizer)
            pending = []
            for step in range(steps):
                training.step()
                pending.append((training.commit(repo, (start or 0) + step), training.bytes()))
            for each, state in pending:
                states[each.result().id] = state
        yield repo, states


def check(repo, states):
    view = ciuic.Repo.open(repo._store.path)
    training = Training()
    training.step()
    for snapshot, state in states.items():
        view.restore(
            snapshot,
            model=training.model,
            optimizer=training.optimizer,
            extra={"half": training.half, "frozen": training.frozen},
        )
        assert training.bytes() == state
    report = view.fsck(read_data=True)
    assert report.ok, report.problems


def test_nothing_is_lost(saved):
    """Every snapshot that was not pruned restores bit for bit after each gc, repack and flatten, and little is stored
    besides what these need."""
    repo, states = saved
    codecs = {row.header.codec for row in rows(repo)}
    assert codecs >= {0, 3, 4, 5}, codecs
    repo.gc()
    check(repo, states)
    chance = random.Random(3)
    for snapshot in chance.sample(list(states), 25):
        repo.prune(snapshot)
        del states[snapshot]
    before = sum(row.header.stored_length for row in rows(repo))
    report = repo.gc(expire=timedelta(0))
    assert report.snapshots == 40
    stored = sum(row.header.stored_length for row in rows(repo))
    assert stored < before
    check(repo, states)
    repo.repack(flatten=next(iter(states)))
    check(repo, states)
    report = repo.repack()
    assert report.gc.resting_bytes <= 0.1 * stored
    check(repo, states)


def test_flatten_sees_what_others_did(tmp_path):
    """A revision was looked up in the view of the call before: a sweep in between made it unknown."""
    repo = ciuic.Repo.init(tmp_path / "run", chunk_size=4096)
    kept = repo.commit({"w": torch.randn(4096)}, rng=False)
    other = ciuic.Repo(tmp_path / "run")
    repo.prune(repo.commit({"w": torch.randn(4096)}, rng=False).id)
    other.commit({"w": torch.randn(4096)}, rng=False)
    other.repack()
    assert repo.repack(flatten=kept.id).flattened == kept.id

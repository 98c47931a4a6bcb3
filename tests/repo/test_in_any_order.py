"""A training whose history is worked on in any order: whatever was committed and not pruned comes back bit for bit."""

import random

import pytest
import torch

import ciuic


class Run:
    """A model of several kinds of tensors, an optimizer of one of several kinds, and what was saved of them."""

    OPTIMIZERS = (
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    )

    def __init__(self, path, kind, chance):
        self.path, self.kind, self.chance = path, kind, chance
        self.repo = ciuic.Repo.init(path, chunk_size=chance.choice([4096, 16384]))
        self.model, self.optimizer = self.fresh()
        self.saved, self.step = {}, 0

    def fresh(self):
        model = torch.nn.ModuleDict(
            {
                "wide": torch.nn.Linear(96, 150),
                "narrow": torch.nn.Linear(150, 96),
                "norm": torch.nn.BatchNorm1d(96),
                "brief": torch.nn.Linear(96, 96, dtype=torch.bfloat16),
            }
        )
        return model, self.OPTIMIZERS[self.kind](model.parameters())

    def commit(self):
        for _ in range(self.chance.choice([1, 1, 1, 5])):
            self.optimizer.zero_grad()
            out = self.model["norm"](self.model["narrow"](torch.relu(self.model["wide"](torch.randn(16, 96)))))
            (out + self.model["brief"](out.bfloat16())).square().mean().backward()
            self.optimizer.step()
        self.step += 1
        if self.chance.random() < 0.1:
            with torch.no_grad():
                self.model["wide"].weight[0] *= 3
        if self.chance.random() < 0.75:
            snapshot = self.repo.commit(self.model, self.optimizer, step=self.step, wait=False).result(60)
        else:
            snapshot = self.repo.commit(self.model, self.optimizer, step=self.step)
        self.saved[snapshot.id] = tensors(self.model, self.optimizer)

    def any(self):
        return self.chance.choice(list(self.saved))

    def restore(self):
        id = self.any()
        self.repo.restore(id, model=self.model, optimizer=self.optimizer)
        assert_equal(tensors(self.model, self.optimizer), self.saved[id])

    def prune(self):
        if len(self.saved) > 3:
            id = self.any()
            self.repo.prune(id)
            del self.saved[id]

    def collect(self):
        self.repo.gc()

    def repack(self):
        self.repo.repack(flatten=self.chance.choice([None, self.any()]))

    def reopen(self):
        self.repo.close()
        self.repo = ciuic.Repo(self.path)

    def check(self):
        assert self.repo.fsck(read_data=True).problems == ()


def tensors(model, optimizer):
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        found.update({(number, name): value.clone() for name, value in slots.items() if torch.is_tensor(value)})
    return found


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kind", [0, 1])
def test_in_any_order(tmp_path, kind):
    """Commits beside training and waited for, restores, prunes, gc, repack, flatten and new processes' views."""
    chance = random.Random(kind)  # of its own: a restore brings the program's back
    torch.manual_seed(kind)
    run = Run(tmp_path / "run", kind, chance)
    run.commit()
    verbs = [run.commit] * 11 + [run.restore] * 3 + [run.prune, run.prune, run.collect, run.repack, run.reopen]
    for _ in range(60):
        chance.choice(verbs)()
    run.check()
    for id, saved in run.saved.items():
        model, optimizer = run.fresh()
        ciuic.Repo(run.path).restore(id, model=model, optimizer=optimizer)
        assert_equal(tensors(model, optimizer), saved)
    run.repo.close()

"""A snapshot taken beside training is, bit for bit, the one that training would have waited for."""

import copy
import random

import numpy
import pytest
import torch
from torch import nn

import ciuic


def block(*more):
    return nn.Sequential(nn.Linear(64, 128), *more, nn.Linear(128, 64))


class Run:
    """One kind of training; ``step()`` is one step of it, ``objects()`` what belongs to its state."""

    def __init__(self):
        self.model = block()
        self.optimizer = self.make_optimizer(self.model.parameters())

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=0.01)

    def backward(self):
        self.model(torch.randn(8, 64)).square().mean().backward()

    def step(self, fence):
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def objects(self):
        return {"model": self.model, "optimizer": self.optimizer}


class ForeachAdamW(Run):
    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=0.01, foreach=True)


class FusedAdamW(Run):
    """Moves no version counter."""

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=0.01, fused=True)


class Momentum(Run):
    def make_optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True)


class TensorRate(Run):
    """The learning rate is a tensor, changed in place between the steps."""

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=torch.tensor(0.01), foreach=False)

    def step(self, fence):
        self.optimizer.param_groups[0]["lr"].mul_(0.9)
        super().step(fence)


class BatchNormAndAverage(Run):
    """Running statistics change in forward, the averaged copy after the step."""

    def __init__(self):
        self.model = block(nn.BatchNorm1d(128), nn.Dropout(0.2))
        self.optimizer = self.make_optimizer(self.model.parameters())
        self.average = copy.deepcopy(self.model)

    def step(self, fence):
        super().step(fence)
        with torch.no_grad():
            for mine, other in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(other, 0.1)

    def objects(self):
        return {**super().objects(), "extra": {"average": self.average}}


class Accumulation(Run):
    """A snapshot between two backward passes has gradients in it, which the next one adds to."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def step(self, fence):
        self.backward()
        self.number += 1
        if self.number % 3 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)


class TwoOptimizers(Run):
    """As in adversarial training: each steps alone, while the other's state may still be on its way."""

    def __init__(self):
        self.model = {"generator": block(), "critic": block()}
        self.optimizer = {name: torch.optim.AdamW(each.parameters()) for name, each in self.model.items()}
        self.number = 0

    def step(self, fence):
        name = ("generator", "critic")[self.number % 2]
        self.number += 1
        self.optimizer[name].zero_grad()
        self.model[name](torch.randn(8, 64)).square().mean().backward()
        self.optimizer[name].step()


class ChangedByHand(Run):
    """Weights are clipped in place, past the version counters, behind the fence that a person calls."""

    def step(self, fence):
        super().step(fence)
        fence()
        for parameter in self.model.parameters():
            parameter.data.clamp_(-0.05, 0.05)


class Swapped(Run):
    """Weights are exchanged for others, in memory of their own: the copy keeps to the old memory."""

    def step(self, fence):
        for parameter in self.model.parameters():
            parameter.data = parameter.data * 0.5
        super().step(fence)


class Growing(Run):
    """A layer more at every other step, and an optimizer made anew for it."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def step(self, fence):
        self.number += 1
        if self.number % 2 == 0:
            self.model.append(nn.Linear(64, 64))
            self.optimizer.add_param_group({"params": self.model[-1].parameters()})
        super().step(fence)


class Closure(Run):
    """LBFGS evaluates the model within its step, several times."""

    def make_optimizer(self, parameters):
        return torch.optim.LBFGS(parameters, max_iter=3, history_size=2)

    def step(self, fence):
        batch = torch.randn(8, 64)

        def closure():
            self.optimizer.zero_grad()
            loss = self.model(batch).square().mean()
            loss.backward()
            return loss

        self.optimizer.step(closure)


class RenormalisedEmbedding(Run):
    """``max_norm`` writes to the weights in forward."""

    def __init__(self):
        self.model = nn.Sequential(nn.EmbeddingBag(500, 64, max_norm=0.5), nn.Linear(64, 64))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def backward(self):
        self.model(torch.randint(0, 500, (8, 20))).square().mean().backward()


class TiedAndStrided(Run):
    """Shared weights are copied once; rows of other memory go in order."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Conv2d(8, 16, 3))
        self.model[1].weight = self.model[0].weight
        self.model[2].to(memory_format=torch.channels_last)
        self.optimizer = self.make_optimizer(self.model.parameters())

    def backward(self):
        self.model[1](self.model[0](torch.randn(8, 64))).square().mean().backward()
        self.model[2](torch.randn(2, 8, 6, 6)).square().mean().backward()


class Frozen(Run):
    """What no optimizer owns is copied in the call, and may be changed at any time."""

    def __init__(self):
        super().__init__()
        self.model[0].requires_grad_(False)
        self.optimizer = self.make_optimizer(self.model[1].parameters())

    def step(self, fence):
        self.model[0].weight.data.add_(0.1)
        super().step(fence)


class HalfPrecision(Run):
    """Two bytes an element, some of it at odd addresses."""

    def __init__(self):
        flat = torch.randn(64 * 64 * 2 + 1).bfloat16()
        self.model = nn.ParameterList([flat[:4096].view(64, 64), flat[4097:8193].view(64, 64)])
        self.optimizer = self.make_optimizer(self.model.parameters())

    def backward(self):
        (self.model[0] @ self.model[1]).square().mean().backward()


KINDS = [Run, *Run.__subclasses__()]


def trained(kind, repo, wait, steps=6):
    """The tree ids of a snapshot after each step of a seeded run."""
    torch.manual_seed(0)
    numpy.random.seed(0)
    random.seed(0)
    run = kind()
    taken = []
    for step in range(steps):
        run.step(repo.fence)
        taken.append(repo.commit(**run.objects(), step=step, wait=wait))
    if not wait:
        taken = [pending.result(60) for pending in taken]
    return [snapshot.tree for snapshot in taken], taken


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_step_equals_the_synchronous_snapshot(kind, tmp_path, opened, slow_copy):
    """Every component's tree, generators and all; and the snapshots are a chain in call order."""
    waited, _ = trained(kind, opened(ciuic.Repo.init(tmp_path / "waited", chunk_size=4096)), True)
    repo = opened(ciuic.Repo.init(tmp_path / "beside", chunk_size=4096))
    beside, snapshots = trained(kind, repo, False)
    assert beside == waited
    assert [snapshot.parents for snapshot in snapshots[1:]] == [(snapshot.id,) for snapshot in snapshots[:-1]]
    assert repo.fsck(read_data=True).ok

"""Real runs: a model, its optimizer, and a manager that asks triggers."""

import time
from collections.abc import Mapping

import numpy
import pytest
import torch

from ciuic.snapshot import SnapshotManager
from ciuic.triggers import Moment, Run


class Training:
    """A network with everything that changes outside an optimizer's step: dropout, batch statistics, a scheduler, a
    copy of large weights beside it. Batches come from the global generator."""

    def __init__(self, path, *triggers, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, 64), torch.nn.BatchNorm1d(64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 4)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.counter = {"seen": 0}
        self.sm = SnapshotManager(path, triggers=triggers, **options)
        self.sm.track(
            model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, counter=self.counter,
        )  # fmt: skip

    def forward(self):
        self.counter["seen"] += 8
        return self.model(torch.randn(8, 8)).square().mean()

    def update(self):
        loss = self.forward()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss

    def step(self, **metrics):
        loss = self.update()
        return self.sm.step(**{"loss": loss, **metrics})

    def weights(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def training(path):
    """``training(trigger, …)``: a new run on the same repository; closed at the end of the test."""
    made = []

    def make(*triggers, **options):
        made.append(Training(path, *triggers, **options))
        return made[-1]

    yield make
    for each in made:
        each.sm.close()


@pytest.fixture
def same_state():
    """Whether two states, live or loaded, are the same bit for bit, whatever is in them."""
    return _same


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.shape, _bits(one)) == (other.dtype, other.shape, _bits(other))
    if isinstance(one, Mapping):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, numpy.ndarray):
        return one.tobytes() == other.tobytes()
    return one == other


def _bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def until():
    """``until(condition)``: wait for what another thread or process does; long enough for any machine."""

    def wait(condition, timeout=120):
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, "in vain"
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def alone():
    """``alone(trigger)``: started without a run around it, closed at the end; ``.ask()`` is a boundary."""
    made = []

    class Alone:
        def __init__(self, trigger):
            self.trigger = trigger
            self.step = 0
            trigger.start(Run("nowhere"))

        def ask(self):
            self.step += 1
            return self.trigger.at_step(Moment(self.step, float(self.step)))

    def start(trigger):
        made.append(trigger)
        return Alone(trigger)

    yield start
    for each in made:
        each.close()

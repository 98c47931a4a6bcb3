"""Schedulers of every kind, and the gradient scaler."""

import pytest
import torch
from torch.optim import lr_scheduler as kinds

import ciuic


class Decay:
    """A callable object: torch stores its attributes."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate**step


SCHEDULERS = {
    "LambdaLR object": lambda o, x: kinds.LambdaLR(o, Decay(x)),
    "LambdaLR function": lambda o, x: kinds.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o, x: kinds.MultiplicativeLR(o, Decay(x)),
    "StepLR": lambda o, x: kinds.StepLR(o, 2, gamma=x),
    "MultiStepLR": lambda o, x: kinds.MultiStepLR(o, [1, 3, 3, 4], gamma=x),
    "ConstantLR": lambda o, x: kinds.ConstantLR(o, x, 3),
    "LinearLR": lambda o, x: kinds.LinearLR(o, x, 1.0, 6),
    "ExponentialLR": lambda o, x: kinds.ExponentialLR(o, x),
    "PolynomialLR": lambda o, x: kinds.PolynomialLR(o, 7, x),
    "CosineAnnealingLR": lambda o, x: kinds.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o, x: kinds.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o, x: kinds.CyclicLR(o, 0.01, 0.2, 3, mode="exp_range", gamma=x),
    "CyclicLR own scale": lambda o, x: kinds.CyclicLR(o, 0.01, 0.2, 3, scale_fn=Decay(x)),
    "OneCycleLR": lambda o, x: kinds.OneCycleLR(o, 0.3, 20),
    "SequentialLR": lambda o, x: kinds.SequentialLR(
        o, [kinds.LinearLR(o, 0.1, 1.0, 3), kinds.ExponentialLR(o, x)], [3]
    ),
    "ChainedScheduler": lambda o, x: kinds.ChainedScheduler([kinds.ConstantLR(o, 0.5, 3), kinds.ExponentialLR(o, x)]),
    "SWALR": lambda o, x: torch.optim.swa_utils.SWALR(o, 0.01, 4),
    "ReduceLROnPlateau": lambda o, x: kinds.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


def make(name, lr=0.1, value=0.9):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return model, optimizer, SCHEDULERS[name](optimizer, value)


def rates(optimizer, scheduler, steps, start=0):
    """The learning rates of the next steps."""
    found = []
    for number in range(steps):
        optimizer.step()
        metric = ((start + number) % 3 + 1.0,) if isinstance(scheduler, kinds.ReduceLROnPlateau) else ()
        scheduler.step(*metric)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_go_on_as_if_nothing_had_happened(repo, name, lr):
    """Exactly, from a scheduler that was built with other values."""
    if isinstance(lr, torch.Tensor) and name in ("CyclicLR", "CyclicLR own scale", "OneCycleLR", "SWALR"):
        lr = lr.clone()
    model, optimizer, scheduler = make(name, lr.clone() if isinstance(lr, torch.Tensor) else lr)
    rates(optimizer, scheduler, 4)
    repo.commit(model, optimizer, scheduler=scheduler)
    expected = [float(rate) for rate in rates(optimizer, scheduler, 6, start=4)]
    other = make(name, lr.clone() if isinstance(lr, torch.Tensor) else lr, 0.9 if "function" in name else 0.5)
    repo.restore("HEAD", model=other[0], optimizer=other[1], scheduler=other[2])
    assert [float(rate) for rate in rates(other[1], other[2], 6, start=4)] == expected


def test_the_milestones_stay_a_counter(repo):
    """``MultiStepLR`` counts its milestones in a Counter with integer keys."""
    model, optimizer, scheduler = make("MultiStepLR")
    repo.commit(model, optimizer, scheduler=scheduler)
    other = make("MultiStepLR")
    other[2].milestones.clear()
    repo.restore("HEAD", model=other[0], optimizer=other[1], scheduler=other[2])
    assert type(other[2].milestones) is type(scheduler.milestones)
    assert other[2].milestones == {1: 1, 3: 2, 4: 1}


def scaler(enabled=True, scale=8.0):
    return torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)


def test_a_scaler_comes_back(repo):
    """Scale and growth tracker."""
    saved = scaler(scale=4.0)
    saved.load_state_dict({**saved.state_dict(), "_growth_tracker": 7})
    repo.commit(scaler=saved)
    live = scaler()
    repo.restore("HEAD", scaler=live)
    assert live.state_dict() == saved.state_dict()


def test_a_disabled_scaler_is_stored_and_restored_as_nothing(repo):
    """It refuses to load the empty state that it saved."""
    model = torch.nn.Linear(1, 1)
    repo.commit(model, scaler=scaler(enabled=False))
    repo.restore("HEAD", model=model, scaler=scaler(enabled=False))


@pytest.mark.parametrize("stored", [True, False])
def test_an_enabled_and_a_disabled_scaler_do_not_fit(repo, stored):
    """Loading an empty state once failed half-way, with the model already restored."""
    model = torch.nn.Linear(1, 1)
    repo.commit(model, scaler=scaler(enabled=stored))
    before = model.weight.detach().clone().zero_()
    with torch.no_grad():
        model.weight.zero_()
    with pytest.raises(ciuic.StateMismatch, match="scaler: the scaler is disabled in the"):
        repo.restore("HEAD", model=model, scaler=scaler(enabled=not stored))
    assert torch.equal(model.weight, before)

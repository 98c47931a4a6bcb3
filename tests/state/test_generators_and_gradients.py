"""Random generators, pending gradients, and a run that goes on bit for bit."""

import random

import numpy
import pytest
import torch

import ciuic


def draw():
    """One number of each generator."""
    return torch.rand(3).tolist(), numpy.random.rand(3).tolist(), random.random(), random.gauss(0, 1)


def reseed(seed):
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)


@pytest.fixture
def committed(repo):
    """A snapshot with the generators in the middle of their way; what they draw next."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    reseed(3)
    random.gauss(0, 1)
    numpy.random.randn(3)
    snapshot = repo.commit(model, optimizer)
    assert {"rng.torch", "rng.numpy", "rng.python"} <= set(snapshot.contains)
    expected = draw()
    reseed(9)
    return model, optimizer, expected


def elsewhere():
    reseed(9)
    return draw()


@pytest.mark.parametrize("verb", ["restore", "checkout"])
@pytest.mark.parametrize("objects", ["model", "optimizer", "both", "none"])
@pytest.mark.parametrize("rng", [None, True, False])
def test_when_the_generators_come_back(repo, committed, verb, objects, rng):
    """In ``restore``; in ``checkout`` with an optimizer; otherwise only when asked, and never against ``rng=False``."""
    model, optimizer, expected = committed
    unchanged = elsewhere()
    reseed(9)
    given = {
        "model": model if objects in ("model", "both") else None,
        "optimizer": optimizer if objects in ("optimizer", "both") else None,
    }
    if objects == "optimizer":
        reseed(3)
        random.gauss(0, 1)
        numpy.random.randn(3)
        snapshot = repo.commit(optimizer=optimizer)  # without its model it goes by position
        reseed(9)
        getattr(repo, verb)(snapshot, rng=rng, **given)
    else:
        getattr(repo, verb)("HEAD", rng=rng, **given)
    back = verb == "restore" if rng is None else rng
    if rng is None and verb == "checkout":
        back = objects in ("optimizer", "both")
    assert draw() == (expected if back else unchanged)


def test_a_snapshot_without_generators(repo):
    """``rng=None`` takes what is there; ``rng=True`` demands them."""
    model = torch.nn.Linear(2, 2)
    snapshot = repo.commit(model, rng=False)
    assert "rng" not in snapshot.tree
    before = elsewhere()
    reseed(9)
    repo.restore("HEAD", model=model)
    assert draw() == before
    with pytest.raises(ciuic.StateMismatch, match="rng: the snapshot has none"):
        repo.restore("HEAD", model=model, rng=True)


def test_another_bit_generator_of_numpy_comes_back(repo):
    """Its state has integers of 128 bits."""
    before = numpy.random.get_bit_generator()
    try:
        numpy.random.set_bit_generator(numpy.random.PCG64(5))
        repo.commit(extra={"x": 1})
        expected = numpy.random.rand(3).tolist()
        repo.restore("HEAD")
        assert numpy.random.rand(3).tolist() == expected
    finally:
        numpy.random.set_bit_generator(before)


def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))


def backward(model, seed):
    data = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    model(data).square().sum().backward()


def test_gradients_under_way_are_part_of_the_state(repo):
    """Between two micro-batches they go in; right after a step, used up but not cleared, they do not."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert "gradients" not in repo.commit(model, optimizer).tree
    backward(model, 1)
    pending = repo.commit(model, optimizer)
    assert "gradients" in pending.contains
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    assert "gradients" not in repo.commit(model, optimizer).tree
    backward(model, 2)
    assert "gradients" in repo.commit(model, optimizer).tree
    optimizer.zero_grad()
    assert "gradients" not in repo.commit(model, optimizer).tree
    live = net()
    live_optimizer = torch.optim.SGD(live.parameters(), 0.1)
    repo.restore(pending, model=live, optimizer=live_optimizer)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(live.parameters(), expected, strict=True))


def test_gradients_that_are_not_the_snapshots_are_dropped(repo):
    """They belong to the weights that the restore replaces; a restore without the optimizer leaves them."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    repo.commit(model, optimizer)
    backward(model, 1)
    repo.restore("HEAD", model=model)
    assert all(parameter.grad is not None for parameter in model.parameters())
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_parameter_of_two_optimizers_has_one_gradient(repo):
    """Its name once stood twice in the tree, and the snapshot could never be read again."""
    model = net()
    optimizers = {"a": torch.optim.SGD(model.parameters(), 0.1), "b": torch.optim.Adam(model.parameters())}
    backward(model, 1)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    repo.commit(model, optimizers)
    model.zero_grad()
    repo.restore("HEAD", model=model, optimizer=optimizers)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))


def test_gradients_without_a_model_go_by_position(repo):
    """Two optimizers whose parameters have no names: they were once left out in silence."""
    first, second = net(), net()
    optimizers = [torch.optim.SGD(first.parameters(), 0.1), torch.optim.SGD(second.parameters(), 0.1)]
    backward(first, 1)
    backward(second, 2)
    expected = [parameter.grad.clone() for parameter in (*first.parameters(), *second.parameters())]
    assert "gradients" in repo.commit(optimizer=optimizers).tree
    first.zero_grad()
    second.zero_grad()
    repo.restore("HEAD", optimizer=optimizers)
    live = (*first.parameters(), *second.parameters())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(live, expected, strict=True))


def test_gradients_that_do_not_fit_are_a_mismatch(repo):
    """Found before anything changes."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.ones(1, 2)).sum().backward()
    repo.commit(optimizer=optimizer)
    other = torch.nn.Linear(3, 3)
    with pytest.raises(ciuic.StateMismatch, match=r"gradients/#0\.0\.0: float32 \[2, 2\] in the snapshot"):
        repo.restore("HEAD", optimizer=torch.optim.SGD(other.parameters(), 0.1))


def run(steps, repo=None, commit_at=None, resume=False):
    """A run with dropout, accumulation over two micro-batches, a scheduler and an EMA; its losses and weights."""
    reseed(0)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100)
    ema = torch.optim.swa_utils.AveragedModel(model)
    first = 0
    if resume:
        reseed(77)
        snapshot = repo.restore("HEAD", model=model, optimizer=optimizer, scheduler=scheduler, extra={"ema": ema})
        first = snapshot.step + 1
    losses = []
    for step in range(first, steps):
        loss = model(torch.randn(5, 4)).square().sum() + numpy.random.rand() + random.random()
        loss.backward()
        losses.append(loss.item())
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            ema.update_parameters(model)
        if step == commit_at:
            repo.commit(model, optimizer, scheduler=scheduler, extra={"ema": ema}, step=step)
            break
    return losses, [tensor.tolist() for each in (model, ema) for tensor in each.state_dict().values()]


@pytest.mark.parametrize("at", [5, 6], ids=["after a step", "while accumulating"])
def test_a_resumed_run_is_the_uninterrupted_run(repo, at):
    """Losses and final weights, bit for bit."""
    losses, weights = run(13)
    before, _ = run(13, repo, commit_at=at)
    after, resumed = run(13, repo, resume=True)
    assert before + after == losses
    assert resumed == weights

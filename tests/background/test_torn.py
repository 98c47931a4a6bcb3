"""State that changes while it is being copied: noticed, said, counted, dropped, and taken anew."""

import pytest
import torch
from torch import nn

import ciuic
from ciuic.snapshot import SnapshotManager


@pytest.fixture
def run():
    """A model and its optimizer after a step, several tensors of 64 KiB each."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.randn(4, 128)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def through_data(parameter):
    """Moves no version counter: only the sample sees it."""
    parameter.data.mul_(1.5)


def one_element(parameter):
    """No sample sees it: only the version counter does."""
    with torch.no_grad():
        parameter[100, 77] += 1


class BypassesHooks(torch.optim.SGD):
    """Steps through a method that torch's hooks know nothing of."""

    def step_now(self):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter -= 0.1 * parameter.grad


@pytest.mark.parametrize("change", [through_data, one_element])
def test_a_change_beside_the_copy_is_noticed(run, repo, slow_copy, warnings_of, change):
    """The snapshot is dropped, the branch stays, the error names the tensor; the next one copies it in the call."""
    model, optimizer = run
    first = repo.commit(model, optimizer, step=0)
    slow_copy.held = True
    pending = repo.commit(model, optimizer, step=1, wait=False)
    change(model[5].weight)
    slow_copy.held = False
    with pytest.raises(ciuic.TornSnapshot, match=r"model/5\.weight changed while being copied, outside an"):
        pending.result(60)
    assert not pending.staged() and repo.counts["torn"] == 1 and repo.resolve("HEAD") == first
    assert "No snapshot of step 1: model/5.weight changed" in warnings_of()[0]

    again = repo.commit(model, optimizer, step=2, wait=False)
    kept = model[5].weight.detach().clone()
    change(model[5].weight)
    assert again.result(60).parents == (first.id,)
    assert torch.equal(repo.load("HEAD")["model"]["5.weight"], kept)


def test_a_change_after_the_copy_is_none(run, repo):
    """Behind ``fence()`` anything may be changed."""
    model, optimizer = run
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    pending = repo.commit(model, optimizer, wait=False)
    repo.fence()
    for parameter in model.parameters():
        parameter.data.zero_()
    pending.result(60)
    stored = repo.load("HEAD")["model"]
    assert all(torch.equal(stored[name], old) for (name, _), old in zip(model.named_parameters(), kept, strict=True))


def test_an_optimizer_that_bypasses_the_hooks(run, repo, slow_copy):
    """Each snapshot is either dropped or right; after the first torn ones all are right."""
    model, _ = run
    optimizer = BypassesHooks(model.parameters(), lr=0.1)
    outcomes = []
    for step in range(6):
        expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        slow_copy.held = True
        pending = repo.commit(model, optimizer, step=step, wait=False)
        optimizer.step_now()
        slow_copy.held = False
        if pending.exception(60) is None:
            stored = repo.load(pending.result())["model"]
            assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
        outcomes.append(pending.exception() is None)
    assert outcomes[0] is False and outcomes[-1] is True
    assert repo.counts["torn"] == outcomes.count(False)


def test_the_manager_takes_it_anew_at_the_next_call(run, tmp_path, slow_copy, opened):
    """Under that step's number, though none was due."""
    model, optimizer = run
    manager = opened(SnapshotManager(tmp_path / "run", auto_save_interval=10))
    slow_copy.held = True
    pending = manager.save(9, model, optimizer)
    through_data(model[5].weight)
    slow_copy.held = False
    assert isinstance(pending.exception(60), ciuic.TornSnapshot)
    assert manager.due(10) and manager.save(10, model, optimizer).result(60).step == 10
    assert not manager.due(11) and manager.failures == 0 and manager.counts["torn"] == 1


def test_loading_into_live_objects_beside_the_copy(run, repo, slow_copy):
    """``restore`` and ``checkout`` wait for the copies by themselves."""
    model, optimizer = run
    first = repo.commit(model, optimizer)
    model(torch.randn(4, 128)).square().mean().backward()
    optimizer.step()
    kept = model[5].weight.detach().clone()
    pending = repo.commit(model, optimizer, wait=False)
    repo.restore(first, model=model, optimizer=optimizer)
    assert torch.equal(repo.load(pending.result(60))["model"]["5.weight"], kept)
    assert not torch.equal(model[5].weight, kept)

"""Tied tensors: stored once, restored tied, and refused where two stored values would share memory."""

import numpy
import pytest
import torch

import ciuic


class Tied(torch.nn.Module):
    def __init__(self, tie=True):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 40)
        self.head = torch.nn.Linear(40, 50, bias=False)
        if tie:
            self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once(repo):
    """In bytes, in the tree and in the count of raw bytes."""
    model = Tied()
    snapshot = repo.commit(model, rng=False)
    assert snapshot.raw_bytes["model"] == 50 * 40 * 4
    tree = dict(repo.components("HEAD")["model"].items)
    assert tree["head.weight"].tie == ("embed.weight",) and tree["embed.weight"].tie is None


def test_tied_weights_are_restored_tied(repo):
    """In place they stay one; loaded they are one object."""
    model = Tied()
    before = model.embed.weight.detach().clone()
    repo.commit(model)
    with torch.no_grad():
        model.embed.weight.zero_()
    repo.restore("HEAD", model=model)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.head.weight, before)
    state = repo.load("HEAD")["model"]
    assert state["head.weight"] is state["embed.weight"]
    assert torch.equal(state["head.weight"], before)


def test_stored_tied_fits_untied(repo):
    """Both live tensors get the one stored value."""
    tied, untied = Tied(), Tied(tie=False)
    repo.commit(tied)
    repo.restore("HEAD", model=untied)
    assert untied.head.weight is not untied.embed.weight
    assert torch.equal(untied.head.weight, tied.embed.weight) and torch.equal(untied.embed.weight, tied.embed.weight)


def test_stored_apart_and_tied_here_is_refused(repo):
    """Two different values cannot go into one memory, not even with strict=False; equal ones can."""
    repo.commit(Tied(tie=False))
    live = Tied()
    before = live.embed.weight.detach().clone()
    for strict in (True, False):
        with pytest.raises(ciuic.StateMismatch, match=r"model/head\.weight and model/embed\.weight share memory here"):
            repo.restore("HEAD", model=live, strict=strict)
    assert torch.equal(live.embed.weight, before)
    untied = Tied(tie=False)
    with torch.no_grad():
        untied.head.weight.copy_(untied.embed.weight)
    repo.commit(untied)
    repo.restore("HEAD", model=live)
    assert torch.equal(live.embed.weight, untied.head.weight)


def test_ties_in_plain_containers(repo):
    """The same tensor, or two views of one memory, at any place of ``extra``."""
    shared = torch.arange(2000.0)
    repo.commit(extra={"a": shared, "b": [shared, {"c": shared[:]}], "other": shared[1:]}, rng=False)
    restored = {}
    repo.restore("HEAD", extra=restored)
    assert restored["a"] is restored["b"][0] is restored["b"][1]["c"]
    assert torch.equal(restored["other"], shared[1:])
    state = repo.load("HEAD")["extra"]
    assert state["b"][1]["c"] is state["a"]


def test_an_array_and_a_tensor_in_one_memory_keep_their_types(repo):
    """``torch.from_numpy`` shares memory; the array once came back as the tensor."""
    array = numpy.arange(10.0)
    repo.commit(extra={"tensor": torch.from_numpy(array), "array": array, "again": array})
    restored = {}
    repo.restore("HEAD", extra=restored)
    assert isinstance(restored["tensor"], torch.Tensor) and isinstance(restored["array"], numpy.ndarray)
    assert restored["again"] is restored["array"]


class Holder:
    """An object whose state holds a tensor of its own and one that somebody else holds too."""

    def __init__(self, own, other):
        self.own, self.other = own, other

    def state_dict(self):
        return {"a": {"w": self.own}, "z": self.other}

    def load_state_dict(self, state):
        self.own, self.other = state["a"]["w"], state["z"]


def test_a_tie_to_the_outside_is_not_looked_up_inside(repo):
    """A tie's path begins at the component.

    It was once looked up from the object that was restored, where the same path meant another tensor.
    """
    shared, own = torch.full((3,), 1.0), torch.full((3,), 2.0)
    repo.commit(extra={"a": {"w": shared}, "obj": Holder(own, shared)})
    live = Holder(torch.zeros(3), torch.zeros(3))
    repo.restore("HEAD", extra={"a": {"w": torch.zeros(3)}, "obj": live})
    assert (live.own.tolist(), live.other.tolist()) == ([2, 2, 2], [1, 1, 1])


def test_empty_tensors_are_never_tied(repo):
    """They have no memory to share, though their addresses may be equal."""
    repo.commit(extra={"a": torch.zeros(0), "b": torch.zeros(0, dtype=torch.int8), "c": torch.zeros(0, 3)})
    restored = {}
    repo.restore("HEAD", extra=restored)
    assert [(restored[name].dtype, tuple(restored[name].shape)) for name in "abc"] == [
        (torch.float32, (0,)),
        (torch.int8, (0,)),
        (torch.float32, (0, 3)),
    ]

"""Small repositories with records of every codec, restored by one thread and by several."""

import copy
from types import SimpleNamespace

import pytest
import torch

import ciuic
from ciuic.codec import Codec
from ciuic.restore import threads

CHUNK = 16384
WARM_UP = 20
"""Steps until a step changes little, so that chains grow long."""


class History:
    """A model trained for some steps, with a snapshot after each; ``states``: what each of them was."""

    def __init__(self, path, rule, steps=8):
        torch.manual_seed(0)
        self.rule = rule
        self.repo = ciuic.Repo.init(path, chunk_size=CHUNK)
        self.model, self.optimizer = self.fresh()
        self.states = []
        for step in range(-WARM_UP, steps):
            self.model(torch.randn(8, 100)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if step < 0:
                continue
            # The writer process still has the step before in memory, which recipes and long chains need.
            self.repo.commit(self.model, self.optimizer, step=step, wait=False)
            self.repo.wait()
            self.states.append(state_of(self.model, self.optimizer))
        self.repo.close()
        self.repo = ciuic.Repo(path)

    def fresh(self, seed=5):
        """A model and an optimizer that has taken no step."""
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(100, 90), torch.nn.Linear(90, 80))
        return model, self.rule(model.parameters(), lr=1e-4)

    def chunks(self, revision="HEAD"):
        """The record of every chunk of a snapshot's model and optimizer."""
        store = self.repo._store
        with store.shared():
            known = {}
            ids = [id for source in self.sources(revision) for id in source.chunks]
            return [store.record(id, known) for id in ids]

    def sources(self, revision="HEAD"):
        from ciuic.objects.state_tree import Tensor, walk

        trees = self.repo.components(revision)
        leaves = [leaf for name in ("model", "optimizer") for _, leaf in walk(trees[name])]
        return [leaf.source for leaf in leaves if isinstance(leaf, Tensor)]

    def of_codec(self, codec, revision="HEAD"):
        return [record for record in self.chunks(revision) if record.header.codec == codec]


def state_of(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def same(a, b):
    """Bit for bit; 0.0 is not -0.0."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def bits(tensor):
    return tensor.detach().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def workers(request, monkeypatch):
    """How many threads a restore of any size uses."""
    if request.param > 1:
        monkeypatch.setattr(threads, "WORTH_THREADS", 0)
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(request.param)), raising=False)
    return request.param


@pytest.fixture(scope="session")
def deltas(tmp_path_factory):
    """A chain of deltas; not to be written to."""
    history = History(tmp_path_factory.mktemp("deltas") / "run", torch.optim.RMSprop)
    assert any(record.header.depth > 2 for record in history.of_codec(Codec.DELTA))
    return history


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    """AdamW's steps predicted; not to be written to."""
    history = History(tmp_path_factory.mktemp("recipes") / "run", torch.optim.AdamW)
    assert any(record.header.depth > 2 for record in history.of_codec(Codec.PREDICTED))
    return history


@pytest.fixture
def repo(tmp_path):
    return ciuic.Repo.init(tmp_path / "run", chunk_size=CHUNK)


@pytest.fixture
def kit():
    """state_of, same, bits, History."""
    return SimpleNamespace(state_of=state_of, same=same, bits=bits, History=History)

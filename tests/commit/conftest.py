"""Trainings whose snapshots are looked at record by record."""

import copy
from collections import Counter

import pytest
import torch

import ciuic
from ciuic.codec import Codec
from ciuic.objects.ids import Kind
from ciuic.objects.tree import ChildEntry, TensorEntry
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def repo(path):
    with ciuic.Repo.init(path, chunk_size=16384) as repo:
        yield repo


class Training:
    """A small model that learns something, so that its state changes as real ones do."""

    def __init__(self, lr=3e-4, seed=0, make=torch.optim.AdamW, **options):
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
        self.optimizer = make(self.model.parameters(), lr=lr, **options)
        self.target = torch.randn(64, 64) / 8

    def steps(self, number=1):
        for _ in range(number):
            inputs = torch.randn(64, 64)
            self.optimizer.zero_grad(set_to_none=True)
            (self.model(inputs) - inputs @ self.target).square().mean().backward()
            self.optimizer.step()

    def state(self):
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))


@pytest.fixture
def training():
    return Training


@pytest.fixture
def stored():
    """``stored(path, snapshot)``: how each tensor of a snapshot is kept: its path → the headers of its chunks."""

    def headers(path, snapshot):
        store = Store(str(path))
        found = {}
        with store.shared():
            snapshot = read_snapshot(store, bytes.fromhex(snapshot.id))
            stack = [(name, bytes.fromhex(root)) for name, root in snapshot.tree.items()]
            while stack:
                where, id = stack.pop()
                tree = read_tree(store, id)
                stack += [(f"{where}/{name}", child) for name, child in tree.modules]
                for key, entry in tree.entries:
                    if isinstance(entry, ChildEntry):
                        stack.append((f"{where}/{key}", entry.id))
                    elif isinstance(entry, TensorEntry):
                        found[f"{where}/{key}"] = [store.header(chunk) for chunk in entry.chunks]
        return found

    return headers


@pytest.fixture
def codecs(stored):
    """``codecs(path, snapshot, "exp_avg")``: how often each codec keeps chunks of tensors so named."""

    def count(path, snapshot, ending, at_least=4096):
        chunks = stored(path, snapshot)
        return Counter(
            Codec(header.codec).name
            for where, headers in chunks.items()
            if where.endswith(ending)
            for header in headers
            if header.raw_length >= at_least
        )

    return count


@pytest.fixture
def records():
    """Every record of a repository: ``records(path)`` gives (kind, header) pairs."""

    def every(path):
        store = Store(str(path))
        with store.shared():
            return [(Kind(row.header.kind), row.header) for name in store.present for row in store.pack(name).rows]

    return every

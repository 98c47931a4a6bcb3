"""docs/format.md is enough to write a reader: an independent one agrees with what was committed."""

import ast
import sys
from pathlib import Path

import cbor2
import pytest
import torch

import ciuic

sys.path.insert(0, str(Path(__file__).parent))
from independent_reader import Reader, decode

SOURCE = Path(__file__).with_name("independent_reader.py")


class Tied(torch.nn.Module):
    """Nested modules, a buffer, tied weights, an odd dtype each."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(300, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8).to(dtype) for dtype in (torch.bfloat16, torch.float64))
        self.head = torch.nn.Linear(8, 300, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.arange(5, dtype=torch.int64))
        self.register_buffer("gate", torch.zeros(4096, dtype=torch.float8_e4m3fn))


def as_bytes(tensor):
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.fixture
def history(tmp_path):
    """Three snapshots of a model that trains, with 4 KiB chunks; (repository path, state_dicts oldest first)."""
    torch.manual_seed(0)
    repo = ciuic.Repo.init(tmp_path / "repo", chunk_size=4096)
    model = Tied()
    optimizer = torch.optim.AdamW(model.layers[1].parameters())
    states = []
    for step in range(3):
        model.layers[1](torch.randn(2, 8, dtype=torch.float64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        extra = {"n": 2**70, "t": (1, "a", None), "long": "x" * 10_000, "z": 1 + 2j, "m": {3: b"\0", "k": [1.5, True]}}
        repo.commit(model, optimizer, step=step, extra=extra, metrics={"loss": 0.5 - step}, config={"lr": [1e-3]})
        states.append({name: (as_bytes(value), tuple(value.shape)) for name, value in model.state_dict().items()})
    return repo.path, states


def test_it_reads_every_tensor_of_every_snapshot(history):
    """Names, dtypes, shapes and bytes of the model, snapshot by snapshot."""
    path, states = history
    reader = Reader(path)
    snapshots = list(reader.history("main"))
    assert [snapshot["step"] for snapshot in snapshots] == [2, 1, 0]
    for snapshot, state in zip(reversed(snapshots), states, strict=True):
        model = reader.tree(snapshot["components"]["model"])
        assert {name: (data, shape) for name, (_, shape, data) in model.items()} == state
        assert model["layers.0.weight"][0] == "bfloat16" and model["gate"][0] == "float8_e4m3fn"
        assert model["head.weight"] == model["embed.weight"]


def test_it_reads_optimizer_values_and_details(history):
    """Optimizer state by name, plain values of every kind, a value too long for its tree, metrics and configuration."""
    path, _ = history
    reader = Reader(path)
    snapshot = next(reader.history("main"))
    optimizer = reader.tree(snapshot["components"]["optimizer"])
    assert optimizer["class"] == "AdamW"
    assert optimizer["state"]["layers.1.weight"]["exp_avg"][:2] == ("float64", (8, 8))
    assert optimizer["param_groups"][0]["params"] == ["layers.1.weight", "layers.1.bias"]
    extra = reader.tree(snapshot["components"]["extra"])
    assert extra["n"] == 2**70 and extra["t"] == (1, "a", None) and extra["long"] == "x" * 10_000
    assert extra["z"] == 1 + 2j and extra["m"] == {3: b"\0", "k": [1.5, True]}
    assert snapshot["metrics"] == {"loss": -1.5}
    assert all(isinstance(seconds, float) for seconds in snapshot["cost"].values())


def codecs(reader):
    """The codecs of every record in its packs."""
    records = (place for places in reader.places.values() for place in places)
    return {Path(path).read_bytes()[offset + 5] for path, offset, _ in records}


def test_both_storages_are_met(history):
    """The repository has raw and compressed records, so that the test above has read both."""
    path, _ = history
    assert codecs(Reader(path)) >= {0, 1}


def test_it_stands_alone():
    """It imports nothing of ciuic, and is about two hundred lines of code."""
    tree = ast.parse(SOURCE.read_text())
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] == "ciuic" for name in names)
    assert len([line for line in SOURCE.read_text().splitlines() if line.strip()]) <= 220


def test_its_decoder_is_plain_cbor():
    """Objects are CBOR that any decoder reads."""
    value = {"a": [1, -5, 2**40, b"x", "y", None, True, 1.5]}
    assert decode(cbor2.dumps(value, canonical=False)) == value

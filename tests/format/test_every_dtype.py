"""The independent reader gets every dtype, chunked and whole, on a branch whose name needs encoding."""

import sys
from pathlib import Path

import numpy
import pytest
import torch

import ciuic

sys.path.insert(0, str(Path(__file__).parent))
from independent_reader import Reader

NAMES = [
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool", "uint8", "int8", "int16"),
    *("int32", "int64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
]
BRANCH = "läufe/a+b"


def as_bytes(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What was committed to the branch, newest first, and a reader of it."""
    path = tmp_path_factory.mktemp("dtypes") / "repo"
    repo = ciuic.Repo.init(path, chunk_size=4096)
    torch.manual_seed(0)
    saved = []
    for step in range(2):
        extra = {name: torch.randint(0, 100, (5, 7)).to(getattr(torch, name)) for name in NAMES if hasattr(torch, name)}
        extra |= {
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(step),
            "transposed": torch.randn(30, 70).T,
            "chunked": torch.randn(5000),
            "compressible": torch.zeros(100_000),
            "on a page": torch.randint(0, 256, (70_000,), dtype=torch.uint8),
        }
        repo.commit(extra={**extra, "array": numpy.arange(10).reshape(2, 5)}, step=step, rng=False)
        saved.insert(0, extra)
        if step == 0:
            repo.branch(BRANCH)
            repo.switch(BRANCH)
    return saved, Reader(path)


def test_every_dtype(stored):
    """Bits, dtypes and shapes of both snapshots, and nothing else."""
    saved, reader = stored
    snapshots = list(reader.history(BRANCH))
    assert [snapshot["step"] for snapshot in snapshots] == [1, 0]
    for snapshot, extra in zip(snapshots, saved, strict=True):
        found = reader.tree(snapshot["components"]["extra"])
        assert found.pop("array") == ("int64", (2, 5), numpy.arange(10).tobytes())
        assert found == {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), as_bytes(tensor))
            for name, tensor in extra.items()
        }


def test_ids_are_the_librarys(stored):
    """The parents that the reader meets are the ids that the library prints."""
    _, reader = stored
    log = [snapshot.id for snapshot in ciuic.Repo(reader.root).log(BRANCH)]
    assert reader.tip(BRANCH).hex() == log[0]
    assert [parent.hex() for snapshot in reader.history(BRANCH) for parent in snapshot["parents"]] == log[1:]

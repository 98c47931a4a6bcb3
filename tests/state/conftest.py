"""A repository of small chunks, so that small tensors have several."""

import pytest

import ciuic


@pytest.fixture
def repo(tmp_path):
    return ciuic.Repo.init(tmp_path / "run", chunk_size=4096)


@pytest.fixture(autouse=True)
def _own_generators():
    """Each test leaves the process's generators as it found them."""
    import random

    import numpy
    import torch

    before = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before[0])
    numpy.random.set_state(before[1])
    random.setstate(before[2])

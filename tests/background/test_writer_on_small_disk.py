"""P11, P1: a run whose snapshots fill a real disk goes on; what was acknowledged comes back, and room makes it well."""

from __future__ import annotations

import pytest
import torch
from small_disk import KINDS, mounted

import ciuic

WIDTH = 160
"""A snapshot takes about 250 KB."""


@pytest.fixture(params=KINDS)
def disk(request, tmp_path):
    """A file system of 4 MiB."""
    with mounted(request.param, tmp_path, 4) as disk:
        yield disk


def test_a_run_that_fills_its_disk(disk, opened, train, caplog):
    """Commits through the writer process until nothing fits; then old ones are pruned, gc frees, and the next is saved.

    Training is never stopped, the failure is said and counted, and every acknowledged snapshot restores bit for bit.
    What the newest snapshot rests on is encoded anew before the old ones go: for that, gc needs room for one snapshot.
    """
    reserve = disk.folder / "something else"
    reserve.write_bytes(bytes(1 << 20))
    torch.manual_seed(0)
    model = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters())
    manager = opened(ciuic.SnapshotManager(disk.folder / "run", 1, when_busy="wait"))
    saved: dict[str, dict[str, torch.Tensor]] = {}
    step = 0
    while not manager.failures:
        train(model, optimizer, WIDTH)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        pending = manager.save(step, model, optimizer)
        if pending is not None and pending.exception(120) is None:
            saved[pending.result(0).id] = state
        step += 1
    assert len(saved) > 5
    assert isinstance(pending.exception(0), ciuic.StorageFull)
    assert "Free some space" in caplog.text

    for id, state in saved.items():
        loaded = manager.repo.load(id)["model"]
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    *old, newest = saved
    for id in old:
        manager.repo.prune(id)
    assert manager.repo.gc().freed_bytes >= 0
    assert all(torch.equal(manager.repo.load(newest)["model"][name], tensor) for name, tensor in saved[newest].items())
    reserve.unlink()
    assert manager.repo.gc().freed_bytes > 1 << 20
    train(model, optimizer, WIDTH)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    snapshot = manager.save(step, model, optimizer, force=True).result(120)
    assert newest in {each.id for each in manager.snapshots()}
    manager.close()

    again = opened(ciuic.SnapshotManager(disk.folder / "run", 1))
    train(model, optimizer, WIDTH)
    assert again.restore(again.get_latest_snapshot(), model=model, optimizer=optimizer).id == snapshot.id
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert again.repo.fsck(read_data=True).ok

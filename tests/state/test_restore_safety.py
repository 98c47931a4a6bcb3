"""Nothing changes before everything is matched and every stored byte is checked."""

import copy
import random
import re
from pathlib import Path

import numpy
import pytest
import torch

import ciuic
from ciuic.store.pack_format import RECORD_LENGTH


def training(seed=0):
    """A model and an optimizer after two steps."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.BatchNorm1d(60), torch.nn.Linear(60, 30))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(8, 40)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def state_of(*objects):
    """Everything that a restore could change, copied."""
    generators = torch.get_rng_state(), random.getstate(), repr(numpy.random.get_state())
    return copy.deepcopy([each.state_dict() for each in objects]), generators


def same_state(a, b):
    def same(x, y):
        if isinstance(x, torch.Tensor):
            return torch.equal(x, y)
        if isinstance(x, dict):
            return list(x) == list(y) and all(same(x[key], y[key]) for key in x)
        if isinstance(x, (list, tuple)):
            return len(x) == len(y) and all(map(same, x, y))
        return x == y

    return same(a, b)


def damage(repo, node):
    """Flip one byte of the last chunk of a stored tensor, and say in which pack and at which record."""
    pack, offset, stored_length = repo._store.locate(node.source.chunks[-1])
    path = Path(pack.path)
    data = bytearray(path.read_bytes())
    header, _ = pack.stored(offset, stored_length)
    data[offset + RECORD_LENGTH + header.stored_length // 2] ^= 1
    path.write_bytes(bytes(data))
    return path, offset


@pytest.mark.parametrize(
    ("component", "name"),
    [("model", "2.weight"), ("optimizer", "state"), ("rng", "torch"), ("extra", "note")],
)
def test_one_damaged_byte_changes_nothing(repo, component, name):
    """The error names the tensor, its chunk, pack and offset, and the newest snapshot that is whole.

    The state of the generators was once not checked before the model had been filled.
    """
    model, optimizer = training()
    extra = {"note": torch.arange(3000.0)}
    intact = repo.commit(model, optimizer, step=1, extra=extra)
    other_model, other_optimizer = training(1)
    extra["note"] += 1
    torch.manual_seed(5)
    repo.commit(other_model, other_optimizer, step=2, extra=extra)
    node = dict(repo.components("HEAD")[component].items)[name]
    if component == "optimizer":
        node = dict(dict(node.items)["2.weight"].items)["exp_avg_sq"]
        name = "state/2.weight/exp_avg_sq"
    path, offset = damage(repo, node)
    live = training(2)
    scale = {"note": torch.zeros(3000)}
    before = state_of(*live)
    with pytest.raises(ciuic.DamagedData) as caught:
        ciuic.Repo(repo.path).restore("HEAD", model=live[0], optimizer=live[1], extra=scale)
    message = str(caught.value)
    for part in (f"{component}/{name}, chunk", str(path), f"at offset {offset}", intact.id[:8], "(step 1)"):
        assert part in message, message
    assert same_state(state_of(*live), before)
    assert not scale["note"].any()


def test_damage_elsewhere_does_not_matter(repo):
    """Only what a restore needs is read: a model comes back beside a damaged optimizer."""
    model, optimizer = training()
    repo.commit(model, optimizer)
    state = dict(repo.components("HEAD")["optimizer"].items)["state"]
    damage(repo, dict(dict(state.items)["0.weight"].items)["exp_avg"])
    live, _ = training(1)
    repo.checkout("HEAD", model=live)
    assert same_state(live.state_dict(), model.state_dict())
    loaded = repo.load("HEAD")
    assert torch.equal(loaded["model"]["0.weight"], model[0].weight)
    with pytest.raises(ciuic.DamagedData, match=r"optimizer/state/0\.weight/exp_avg, chunk"):
        loaded["optimizer"]["state"]["0.weight"]["exp_avg"]


def test_a_damaged_chunk_is_stored_again_by_the_next_commit(repo):
    """And then the older snapshot that shares it is whole as well."""
    model, _ = training()
    first = repo.commit(model, rng=False)
    damage(repo, dict(repo.components("HEAD")["model"].items)["0.weight"])
    again = ciuic.Repo(repo.path)
    with pytest.raises(ciuic.DamagedData):
        again.restore(first, model=training(1)[0], rng=False)
    again.commit(model, rng=False)
    live, _ = training(1)
    again.restore(first, model=live, rng=False)
    assert same_state(live.state_dict(), model.state_dict())


def test_a_missing_pack_changes_nothing(repo):
    """MissingObject, and the live objects as they were."""
    model, optimizer = training()
    repo.commit(model, rng=False)
    other, _ = training(1)
    repo.commit({"a": model, "b": other}, rng=False)
    packs = sorted(Path(repo.path, "packs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    packs[0].unlink()
    live = {"a": training(2)[0], "b": training(3)[0]}
    before = state_of(*live.values())
    with pytest.raises(ciuic.MissingObject):
        ciuic.Repo(repo.path).restore("HEAD", model=live, rng=False)
    assert same_state(state_of(*live.values()), before)
    assert optimizer.state


def test_a_mismatch_lists_keys_shapes_and_dtypes(repo):
    """All of them at once, in words; ``problems`` has a line each; nothing changes, the generators included."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    repo.commit(model, extra={"note": 1})
    live = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 5), "2": torch.nn.Linear(1, 1)})
    live["0"].bias = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    scheduler = torch.nn.Linear(1, 1)
    before = state_of(live)
    with pytest.raises(ciuic.StateMismatch) as caught:
        repo.restore("HEAD", model=live, extra={"note": 0, "other": 0}, scheduler=scheduler)
    assert caught.value.problems == (
        "model/0.weight: float32 [3, 4] in the snapshot, float32 [5, 4] in the live object",
        "model/0.bias: float32 [3] in the snapshot, float64 [3] in the live object",
        "model/2.weight: not in the snapshot; the live object has float32 [1, 1]",
        "model/2.bias: not in the snapshot; the live object has float32 [1]",
        "model/1.weight: not in the live object; the snapshot has float32 [2, 3]",
        "model/1.bias: not in the live object; the snapshot has float32 [2]",
        "scheduler: the snapshot has none",
        "extra/other: not in the snapshot, which has note",
    )
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert "strict=False" in str(caught.value)
    assert same_state(state_of(live), before)


def test_strict_false_restores_what_fits_and_says_what_not(repo, caplog):
    """One warning a key that was left."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    repo.commit(model)
    live = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 5), torch.nn.Linear(1, 1))
    before = copy.deepcopy(live.state_dict())
    repo.restore("HEAD", model=live, strict=False)
    assert torch.equal(live[0].weight, model[0].weight)
    assert torch.equal(live[1].weight, before["1.weight"]) and torch.equal(live[2].weight, before["2.weight"])
    left = [re.search(r"model/\S+(?=:)", record.getMessage())[0] for record in caplog.records]
    assert left == ["model/1.weight", "model/1.bias", "model/2.weight", "model/2.bias"]


@pytest.mark.parametrize(
    ("keys", "restored"),
    [
        ("model/0.*", {"0.weight", "0.bias"}),
        (["model/0.bias", "model/1.w*"], {"0.bias", "1.weight"}),
        (lambda path: path.endswith("weight"), {"0.weight", "1.weight"}),
        ("*", {"0.weight", "0.bias", "1.weight", "1.bias"}),
        ([], set()),
    ],
    ids=["glob", "list", "function", "all", "none"],
)
def test_a_key_filter_restores_some(repo, keys, restored):
    """What it leaves out need not even fit."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    repo.commit(model)
    live = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    repo.restore("HEAD", model=live, keys=keys)
    changed = {name for name, value in live.state_dict().items() if torch.equal(value, model.state_dict()[name])}
    assert changed == restored


def test_a_filter_leaves_out_what_does_not_fit(repo):
    """The new head of a fine-tuned model, for example."""
    repo.commit(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
    live = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 9))
    repo.restore("HEAD", model=live, keys="model/0.*")
    with pytest.raises(ciuic.StateMismatch, match=r"model/1\.weight"):
        repo.restore("HEAD", model=live)


class Stubborn:
    """Fails when it is loaded."""

    def state_dict(self):
        return {"x": 1}

    def load_state_dict(self, state):
        raise ValueError("not today")


def test_a_failure_in_the_second_pass_says_that_things_are_mixed(repo):
    """RestoreInterrupted, with the reason and the object."""
    model, _ = training()
    repo.commit(model, extra={"s": Stubborn()})
    live, _ = training(1)
    with pytest.raises(ciuic.RestoreInterrupted, match=r"half-way \(extra/s: .*ValueError: not today\).*mixture"):
        repo.restore("HEAD", model=live, extra={"s": Stubborn()})


def test_the_parent_does_not_move_with_a_refused_restore(repo):
    """The next commit goes on where the run was."""
    model, _ = training()
    repo.commit(model, step=1)
    second = repo.commit(model, step=2)
    with pytest.raises(ciuic.StateMismatch):
        repo.restore("HEAD~1", model=torch.nn.Linear(1, 1))
    third = repo.commit(model, step=3)
    assert third.parents == (second.id,) and list(repo.branches()) == ["main"]


def test_what_cannot_be_restored_in_place_is_named(repo):
    """A number handed over as a component goes nowhere."""
    model, _ = training()
    repo.commit(model)
    with pytest.raises(ciuic.StateMismatch, match=r"model: a int cannot be restored in place; read it with Repo\.load"):
        repo.restore("HEAD", model=5)

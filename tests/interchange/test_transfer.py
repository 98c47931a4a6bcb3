"""Export and import over a real repository: what goes out and in again is the same state, bit for bit."""

import json
import random

import numpy
import pytest
import safetensors
import safetensors.torch
import torch

import ciuic
from ciuic.errors import InvalidImport, Pruned, UnknownPath
from ciuic.interchange.transfer import export, import_file


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.embed(tokens)))


def train(model, optimizer, steps):
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(torch.randint(5, (6,))), torch.randint(5, (6,))).backward()
        optimizer.step()
        optimizer.zero_grad()


def fresh(seed=0, bfloat16=False):
    torch.manual_seed(seed)
    model = Net().bfloat16() if bfloat16 else Net()
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


@pytest.fixture
def repo(tmp_path):
    repo = ciuic.Repo.init(tmp_path / "repo", chunk_size=4096)
    model, optimizer = fresh()
    train(model, optimizer, 2)
    repo.commit(model, optimizer, step=1, metrics={"loss": 2.0}, config={"lr": 0.1})
    return repo


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(a, b):
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and a[name].equal(b[name]) for name in a)


def test_safetensors_out_of_and_into_a_repository(repo, tmp_path):
    before = repo.resolve("HEAD")
    file = str(tmp_path / "m.safetensors")
    report = export(repo, "HEAD", file)
    assert report.tied == {"head.weight": "embed.weight"}
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert (metadata["ciuic.snapshot"], metadata["ciuic.step"]) == (before.id, "1")
    assert metadata["ciuic.component"] == "model"
    model, _ = fresh(seed=9)
    assert safetensors.torch.load_model(model, file) == (set(), [])
    imported = import_file(repo, file, message="from outside", step=7)
    assert (imported.tensors, imported.tied) == (len(model.state_dict()), 1)
    assert imported.snapshot == repo.resolve("HEAD")
    assert (imported.snapshot.step, imported.snapshot.message) == (7, "from outside")
    assert imported.snapshot.parents == (before.id,)
    assert imported.snapshot.contains == ("model",)
    assert repo.diff(before, "HEAD", path="model").same_state
    other, _ = fresh(seed=5)
    repo.restore("HEAD", model=other)
    assert same_weights(weights(other), weights(model))
    assert other.head.weight is other.embed.weight


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_run_goes_on_from_its_imported_parts_as_if_nothing_had_happened(tmp_path, bfloat16):
    repo = ciuic.Repo.init(tmp_path / "repo")
    model, optimizer = fresh(bfloat16=bfloat16)
    train(model, optimizer, 2)
    numpy.random.rand(3)
    repo.commit(model, optimizer, step=1, extra={"seen": 12})
    train(model, optimizer, 2)
    drawn = random.random(), numpy.random.rand(), torch.rand(1).item()
    export(repo, "HEAD", str(tmp_path / "all.pt"), component="all")
    elsewhere = ciuic.Repo.init(tmp_path / "elsewhere")
    import_file(elsewhere, str(tmp_path / "all.pt"), to="all", step=1)
    other, fresh_optimizer = fresh(seed=8, bfloat16=bfloat16)
    train(other, fresh_optimizer, 1)
    elsewhere.restore("HEAD", model=other, optimizer=fresh_optimizer)
    train(other, fresh_optimizer, 2)
    assert same_weights(weights(other), weights(model))
    assert (random.random(), numpy.random.rand(), torch.rand(1).item()) == drawn
    assert elsewhere.load("HEAD")["extra"]["seen"] == 12


def test_torch_takes_the_exported_optimizer(repo, tmp_path):
    export(repo, "HEAD", str(tmp_path / "o.pt"), component="optimizer")
    export(repo, "HEAD", tmp_path / "m.pt")
    model, optimizer = fresh(seed=4)
    model.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    optimizer.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    other, restored = fresh(seed=6)
    repo.restore("HEAD", model=other, optimizer=restored)
    torch.manual_seed(1)
    train(model, optimizer, 3)
    torch.manual_seed(1)
    train(other, restored, 3)
    assert same_weights(weights(model), weights(other))


def test_a_files_optimizer_without_names_fits_by_position(repo, tmp_path):
    model, optimizer = fresh()
    train(model, optimizer, 1)
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    import_file(repo, tmp_path / "o.pt", to="optimizer")
    _, other = fresh(seed=3)
    repo.restore("HEAD", optimizer=other)
    for slots, expected in zip(
        other.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert all(slots[name].equal(expected[name]) for name in expected)


def test_a_sharded_model(repo, tmp_path):
    model, _ = fresh(seed=2)
    state = weights(model)
    del state["head.weight"]
    names = sorted(state)
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for shard, held in shards.items():
        safetensors.torch.save_file(
            {name: state[name] for name in held}, tmp_path / shard, metadata={"head.weight": "embed.weight"}
        )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    import_file(repo, str(index))
    other, _ = fresh(seed=5)
    repo.restore("HEAD", model=other)
    assert same_weights(weights(other), weights(model))


def test_a_dry_run_checks_and_stores_nothing(repo, tmp_path):
    export(repo, "HEAD", str(tmp_path / "m.safetensors"))
    before = repo.resolve("HEAD")
    report = import_file(repo, str(tmp_path / "m.safetensors"), dry_run=True)
    assert (report.snapshot, report.components) == (None, ("model",))
    assert (
        report.nbytes == sum(tensor.nbytes for tensor in weights(fresh()[0]).values()) - fresh()[0].head.weight.nbytes
    )
    assert repo.resolve("HEAD") == before
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(InvalidImport):
        import_file(repo, str(tmp_path / "bad.pt"), dry_run=True)


def test_several_models_out_and_in(tmp_path):
    repo = ciuic.Repo.init(tmp_path / "repo")
    pair = {"generator": fresh(1)[0], "critic": fresh(2)[0]}
    before = repo.commit(pair, step=0)
    for suffix in ("safetensors", "pt"):
        export(repo, "HEAD", str(tmp_path / f"m.{suffix}"))
        import_file(repo, str(tmp_path / f"m.{suffix}"))
        assert repo.diff(before, "HEAD", path="model").same_state
    others = {"generator": fresh(7)[0], "critic": fresh(8)[0]}
    repo.restore("HEAD", model=others)
    assert all(same_weights(weights(others[name]), weights(pair[name])) for name in pair)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_model_without_ties_comes_back_as_the_same_tree(tmp_path, suffix):
    repo = ciuic.Repo.init(tmp_path / "repo")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1).bfloat16())
    before = repo.commit(model)
    export(repo, "HEAD", str(tmp_path / f"m.{suffix}"))
    imported = import_file(repo, str(tmp_path / f"m.{suffix}")).snapshot
    assert imported.tree["model"] == before.tree["model"]


def test_what_is_not_there(repo, tmp_path):
    with pytest.raises(UnknownPath, match="no scaler"):
        export(repo, "HEAD", str(tmp_path / "s.pt"), component="scaler")
    repo.prune("HEAD", "optimizer")
    with pytest.raises(Pruned, match="optimizer"):
        export(repo, "HEAD", str(tmp_path / "o.pt"), component="optimizer")
    assert "optimizer" not in export(repo, "HEAD", str(tmp_path / "all.pt"), component="all").components


def test_a_diff_of_stored_snapshots_reads_what_changed(repo):
    model, optimizer = fresh()
    repo.restore("HEAD", model=model, optimizer=optimizer)
    with torch.no_grad():
        model.norm.weight[0] += 2.0
    optimizer.param_groups[0]["lr"] = 0.05
    repo.commit(model, optimizer, step=2, metrics={"loss": 1.5}, config={"lr": 0.05})
    found = repo.diff("HEAD~1", "HEAD")
    assert [(change.path, change.changed_elements, change.max_abs) for change in found.tensors] == [
        ("model/norm.weight", 1, pytest.approx(2.0))
    ]
    assert [(change.path, change.before, change.after) for change in found.values] == [
        ("optimizer/param_groups/0/lr", 0.1, 0.05)
    ]
    assert [change.path for change in found.config + found.metrics] == ["lr", "loss"]
    assert (found.added, found.removed, found.retyped, found.generators) == ((), (), (), ())
    assert {module.path for module in found.modules} == {"model", "model/norm"}
    assert repo.diff("HEAD", "HEAD").same_state
    repo.prune("HEAD~1", "optimizer")
    assert repo.diff("HEAD~1", "HEAD").pruned == ("optimizer",)

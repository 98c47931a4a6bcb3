"""torch.save files in and out: plain, readable with ``weights_only=True``, and never unpickled otherwise."""

import collections
import io
import os
import pickle
import zipfile

import numpy
import pytest
import torch

from ciuic.errors import InvalidImport, UnsupportedState
from ciuic.interchange.component_trees import to_component
from ciuic.interchange.exporting import export_snapshot
from ciuic.interchange.importing import read_file
from ciuic.state.capture import capture_state
from ciuic.state.leaves import to_live


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.embed(tokens)))


def trained(optimizer_class=torch.optim.AdamW, named=False):
    torch.manual_seed(3)
    model = Net()
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim > 1 else rest).append((name, parameter) if named else parameter)
    optimizer = optimizer_class([{"params": rest, "lr": 0.1}, {"params": decayed, "lr": 0.2}])
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    torch.nn.functional.cross_entropy(model(torch.arange(5)), torch.arange(5)).backward()
    optimizer.step()
    optimizer.zero_grad()


def capture(**objects):
    given = {"model": None, "optimizer": None, "scheduler": None, "scaler": None, "extra": None, "rng": False}
    return capture_state(**{**given, **objects}).components


def bits(state):
    """Nested state with tensors as comparable values."""
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.detach().contiguous().numpy().tobytes()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    if isinstance(state, numpy.ndarray):
        return state.dtype, state.shape, state.tobytes()
    return [bits(value) for value in state] if isinstance(state, (list, tuple)) else state


def load(file):
    return torch.load(file, weights_only=True)


def test_a_model_is_a_plain_state_dict_with_its_ties(tmp_path):
    model, _ = trained()
    report = export_snapshot(capture(model=model), str(tmp_path / "m.pt"))
    state = load(tmp_path / "m.pt")
    assert type(state) is dict
    assert bits(state) == bits(dict(model.state_dict()))
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()
    assert (report.format, report.tied) == ("torch", {"head.weight": "embed.weight"})
    assert report.size == os.path.getsize(tmp_path / "m.pt")
    other = Net()
    other.load_state_dict(state)
    assert bits(dict(other.state_dict())) == bits(dict(model.state_dict()))


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("named", [False, True])
def test_torch_loads_an_exported_optimizer_and_goes_on_alike(tmp_path, optimizer_class, named):
    model, optimizer = trained(optimizer_class, named)
    state = capture(model=model, optimizer=optimizer)
    export_snapshot(state, str(tmp_path / "o.pt"), component="optimizer")
    export_snapshot(state, str(tmp_path / "m.pth"))
    other, fresh = trained(optimizer_class, named)
    for _ in range(3):
        step(other, fresh)
    other.load_state_dict(load(tmp_path / "m.pth"))
    fresh.load_state_dict(load(tmp_path / "o.pt"))
    step(model, optimizer)
    step(other, fresh)
    assert bits(dict(other.state_dict())) == bits(dict(model.state_dict()))
    assert bits(fresh.state_dict()["state"]) == bits(optimizer.state_dict()["state"])


def test_several_optimizers_each_get_torchs_layout(tmp_path):
    models, optimizers = zip(trained(), trained(), strict=True)
    names = ("generator", "critic")
    state = capture(model=dict(zip(names, models, strict=True)), optimizer=dict(zip(names, optimizers, strict=True)))
    export_snapshot(state, str(tmp_path / "o.pt"), component="optimizer")
    layouts = load(tmp_path / "o.pt")
    for name, optimizer in zip(names, optimizers, strict=True):
        assert bits(layouts[name]["state"]) == bits(optimizer.state_dict()["state"])
        assert layouts[name]["param_groups"][0]["param_names"][0] == f"{name}/norm.weight"


def whole_state():
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    extra = {
        "array": numpy.arange(3.0),
        "scalar": numpy.float64(0.5),
        "counter": collections.Counter("aab"),
        "plain": [1, (2.5, None), b"bytes", "text", 1 + 2j, {3: True}],
    }
    return capture(model=model, optimizer=optimizer, scheduler=scheduler, extra=extra, rng=True)


def test_everything_in_one_file(tmp_path):
    components = whole_state()
    report = export_snapshot(components, str(tmp_path / "all.pt"), component="all")
    state = load(tmp_path / "all.pt")
    assert list(state) == list(components) == list(report.components)
    assert state["extra"]["array"].equal(torch.arange(3, dtype=torch.float64))
    assert state["extra"]["plain"] == [1, (2.5, None), b"bytes", "text", 1 + 2j, {3: True}]
    assert state["extra"]["counter"] == collections.Counter("aab")
    assert report.tied == {"model/head.weight": "model/embed.weight"}


@pytest.mark.parametrize("component", ["model", "optimizer", "scheduler", "rng"])
def test_what_was_exported_is_imported_to_the_same_tree(tmp_path, component):
    components = whole_state()
    file = str(tmp_path / "one.pt")
    export_snapshot(components, file, component=component)
    state, metadata = read_file(file, to=component)
    assert metadata == {}
    tree = to_component(component, state[component], file)
    before, after = to_live(components[component]), to_live(tree)
    if component == "optimizer":
        assert before.pop("class") == "AdamW"
        assert after.pop("class") == "Optimizer"
    assert bits(after) == bits(before)
    assert describe(tree) == describe(components[component])


def describe(node, path=()):
    """Kinds and ties, without contents."""
    if not hasattr(node, "items"):
        return getattr(node, "tie", None)
    return node.kind, [(key, describe(child, (*path, key))) for key, child in node.items]


def test_a_whole_file_comes_back_component_by_component(tmp_path):
    components = whole_state()
    export_snapshot(components, str(tmp_path / "all.pt"), component="all")
    state, _ = read_file(str(tmp_path / "all.pt"), to="all")
    assert list(state) == list(components)
    trees = {name: to_component(name, each, "all.pt") for name, each in state.items()}
    assert bits(to_live(trees["model"])) == bits(to_live(components["model"]))


def test_torchs_own_files_are_imported_with_names_or_by_position(tmp_path):
    model, optimizer = trained(named=True)
    torch.save(optimizer.state_dict(), tmp_path / "named.pt")
    torch.save(trained()[1].state_dict(), tmp_path / "unnamed.pt")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for file, names in (
        ("named.pt", ["norm.weight", "norm.bias", "embed.weight"]),
        ("unnamed.pt", ["#0.0", "#0.1", "#1.0"]),
    ):
        tree = to_component("optimizer", read_file(str(tmp_path / file), to="optimizer")[0]["optimizer"], file)
        assert [name for name, _ in tree["state"].items] == names
    tree = to_component("model", read_file(str(tmp_path / "model.pt"))[0]["model"], "model.pt")
    assert dict(tree.items)["head.weight"].tie == ("embed.weight",)


def test_several_models_in_a_file(tmp_path):
    torch.save({"a": {"w": torch.ones(1)}, "b": [{"w": torch.ones(2)}]}, tmp_path / "m.pt")
    tree = to_component("model", read_file(str(tmp_path / "m.pt"))[0]["model"], "m.pt")
    assert (tree.kind, tree["a"].kind, tree["b"].kind, tree["b"][0].kind) == (
        "dict",
        "module",
        "list",
        "module",
    )


@pytest.mark.parametrize(
    ("component", "state"),
    [
        ("model", torch.ones(1)),
        ("model", 3),
        ("model", {3: torch.ones(1)}),
        ("optimizer", torch.ones(1)),
        ("optimizer", {}),
        ("optimizer", {"state": {}, "param_groups": 3}),
        ("optimizer", {"state": {}, "param_groups": [3]}),
        ("optimizer", {"state": {}, "param_groups": [{"params": 3}]}),
        ("optimizer", {"state": {}, "param_groups": [{"params": [[]]}]}),
        ("optimizer", {"state": {}, "param_groups": [{"params": [0, 1], "param_names": ["a", "a"]}]}),
        ("optimizer", {"state": {}, "param_groups": [{"params": [0, 0]}]}),
        ("all", {"weights": torch.ones(1)}),
        ("all", [torch.ones(1)]),
        ("all", {}),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, component, state):
    file = str(tmp_path / "m.pt")
    torch.save(state, file)
    with pytest.raises(InvalidImport, match=r"m\.pt"):
        to_component(component, read_file(file, to=component)[0][component], file)


def test_a_tensor_that_cannot_be_stored_is_named(tmp_path):
    torch.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "m.pt")
    with pytest.raises(UnsupportedState, match="model/w"):
        to_component("model", read_file(str(tmp_path / "m.pt"))[0]["model"], "m.pt")


# Hostile files.


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def hostile(name):
    out = io.BytesIO()
    loop = []
    loop.append(loop)
    laughs = [[]]
    for _ in range(40):
        laughs = [laughs, laughs]
    states = {
        "module": torch.nn.Linear(1, 1),
        "attack": {"w": torch.ones(1), "x": Attack()},
        "numpy": {"w": numpy.ones(1)},
        "loop": loop,
        "laughs": laughs,
        "expanded": {"w": torch.ones(1).expand(1 << 40)},
    }
    if name in states:
        torch.save(states[name], out)
    elif name == "pickle":
        pickle.dump(Attack(), out)
    elif name == "old format":
        torch.save({"w": torch.ones(1)}, out, _use_new_zipfile_serialization=False)
    elif name == "truncated":
        torch.save({"w": torch.ones(1000)}, out)
        return out.getvalue()[:-500]
    elif name == "compressed":
        good = io.BytesIO()
        torch.save({"w": torch.zeros(100_000)}, good)
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
            for record in source.infolist():
                target.writestr(record.filename, source.read(record))
    elif name == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), out)
    elif name == "zip of something":
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a", b"b")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "module",
        "attack",
        "numpy",
        "loop",
        "laughs",
        "expanded",
        "pickle",
        "old format",
        "truncated",
        "compressed",
        "script",
        "zip of something",
        "empty",
    ],
)
def test_hostile_files_are_refused_and_run_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").write_bytes(hostile(name))
    with pytest.raises(InvalidImport, match=r"m\.pt") as refused:
        read_file("m.pt")
    assert "weights_only" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == ["m.pt"]


def test_any_cut_of_a_good_file_is_refused(tmp_path):
    torch.save({"w": torch.arange(10.0), "lr": 0.1}, tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    for length in range(0, len(good), 37):
        (tmp_path / "m.pt").write_bytes(good[:length])
        with pytest.raises(InvalidImport):
            read_file(str(tmp_path / "m.pt"))

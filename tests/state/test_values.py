"""Nested states of any kind: exact, in place where that can be, refused by their path otherwise."""

from collections import Counter, OrderedDict, namedtuple

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ciuic
from ciuic.history.leaves import same_plain

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KEYS = st.one_of(TEXT, st.integers())
TENSORS = st.tuples(
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 2**31),
)


def tensor(description):
    dtype, shape, seed = description
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**100), 2**100),
    st.floats(),
    st.complex_numbers(),
    TEXT,
    st.binary(max_size=30),
    TENSORS.map(tensor),
    st.integers(-100, 100).map(numpy.int16),
    st.floats().map(numpy.float64),
    st.lists(st.floats(width=32), max_size=5).map(lambda values: numpy.array(values, dtype=numpy.float32)),
)
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
        st.dictionaries(KEYS, st.integers(), max_size=4).map(Counter),
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal in type, order and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (numpy.ndarray, numpy.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return same_plain(a, b)


def thawed(value, like):
    """A lazily loaded value as the types that it was stored from (a mapping's kind is not part of its face)."""
    if isinstance(like, dict) and not isinstance(value, dict):
        return type(like)({key: thawed(value[key], like[key]) for key in value})
    if isinstance(like, (list, tuple)) and not isinstance(value, (list, tuple)):
        return type(like)(thawed(item, before) for item, before in zip(value, like, strict=True))
    return value


@pytest.fixture(scope="module")
def shared_repo(tmp_path_factory):
    return ciuic.Repo.init(tmp_path_factory.mktemp("values") / "run", chunk_size=4096)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, STATES, max_size=4))
def test_any_nested_state_comes_back_exactly(shared_repo, state):
    """Types, order, integer keys, bits: through a commit and a restore into an empty dict, and through ``load``."""
    snapshot = shared_repo.commit(extra=state, rng=False)
    restored = {}
    shared_repo.restore(snapshot, extra=restored)
    assert same(restored, state)
    loaded = shared_repo.load(snapshot)["extra"]
    assert same(thawed(loaded, state), state)


def test_a_dict_is_restored_by_its_keys_and_in_place(repo):
    """What the live dict has is taken; nested dicts, lists and arrays change where they are.

    A dict of plain values was once replaced inside ``extra``, and the one in the caller's hands stayed as it was.
    """
    progress, seen, array, weights = {"epoch": 3}, [1, 2], numpy.arange(3), torch.arange(3)
    repo.commit(extra={"progress": progress, "seen": seen, "array": array, "weights": weights, "tokens": 5, "more": 1})
    progress["epoch"], progress["new"], seen[:], array[:] = 0, 1, [9], 0
    weights.zero_()
    live = {"progress": progress, "seen": seen, "array": array, "weights": weights, "tokens": 0}
    repo.restore("HEAD", extra=live)
    assert (progress, seen, array.tolist(), weights.tolist()) == ({"epoch": 3}, [1, 2], [0, 1, 2], [0, 1, 2])
    assert live["tokens"] == 5 and "more" not in live
    assert live["progress"] is progress


def test_only_plain_values_are_restored_by_key_too(repo):
    """``extra={"tokens_seen": 0}`` takes that, and not the rest of what was stored."""
    repo.commit(extra={"tokens_seen": 5, "big": torch.ones(3)})
    live = {"tokens_seen": 0}
    repo.restore("HEAD", extra=live)
    assert live == {"tokens_seen": 5}
    with pytest.raises(ciuic.StateMismatch, match=r"extra/other: not in the snapshot, which has tokens_seen, big"):
        repo.restore("HEAD", extra={"other": 0})


def test_long_values_are_chunked(repo):
    """A value beyond what stands in a tree, beyond a chunk too."""
    state = {"text": "ä" * 30_000, "list": list(range(5000)), "bytes": bytes(range(256)) * 100, "big": 3**9000}
    repo.commit(extra=state)
    assert dict(repo.load("HEAD")["extra"]) == state


class Meter:
    """An object of the user's own with state."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "tensor": torch.full((2,), float(self.value)), "nested": {"a": [1, (2, 3)]}}

    def load_state_dict(self, state):
        assert state["nested"] == {"a": [1, (2, 3)]}
        assert torch.equal(state["tensor"], torch.full((2,), float(state["value"])))
        self.value = state["value"]


def test_anything_with_state_dict_is_accepted(repo):
    """At any depth, beside plain values."""
    repo.commit(extra={"meters": [Meter(1), {"x": Meter(2)}], "note": "n"})
    live = {"meters": [Meter(0), {"x": Meter(0)}], "note": ""}
    repo.restore("HEAD", extra=live)
    assert (live["meters"][0].value, live["meters"][1]["x"].value, live["note"]) == (1, 2, "n")


Pair = namedtuple("Pair", "a b")


def test_a_tuple_with_a_value_is_compared(repo):
    """A tuple's objects are restored; a plain value in it cannot be, so it has to be the same."""
    repo.commit(extra={"pair": Pair(Meter(1), 3)})
    live = Meter(0)
    repo.restore("HEAD", extra={"pair": (live, 3)})
    assert live.value == 1
    with pytest.raises(ciuic.StateMismatch, match=r"extra/pair/1: a tuple cannot take another value"):
        repo.restore("HEAD", extra={"pair": (live, 4)})


def circle():
    value = []
    value.append(value)
    return value


def deep(levels, inner):
    for _ in range(levels):
        inner = [inner]
    return inner


UNSUPPORTED = {
    "an object": (lambda: {"a": [{"b": object()}]}, "extra/a/0/b: cannot store a builtins.object"),
    "a set": (lambda: {"a": {1, 2}}, "extra/a: cannot store a builtins.set"),
    "a function": (lambda: {"a": (len,)}, "extra/a/0: cannot store"),
    "a key that is None": (lambda: {"a": {None: torch.ones(1)}}, "extra/a: dict key None"),
    "a key that is a tuple": (lambda: {"a": {(1, 2): 1}}, r"extra/a: dict key \(1, 2\) is a tuple"),
    "a key that is a bool": (lambda: {"a": {True: torch.ones(1)}}, "extra/a: dict key True"),
    "a circle": (lambda: {"a": circle()}, "extra/a/0/0/.*inside itself"),
    "a deep list": (lambda: {"a": deep(99, 1)}, "extra.* nested more than 100 deep"),
    "a deeper list": (lambda: {"a": deep(5000, 1)}, "extra/a/.*nested more than"),
    "a deep list of tensors": (lambda: {"a": deep(500, torch.ones(1))}, "extra/a/.*nested more than"),
    "a list": (lambda: [1], "extra: give a dict"),
    "half a character": (lambda: {"a": "\ud800"}, "extra: text that is not valid Unicode"),
    "half a character as a name": (lambda: {"\ud800": torch.ones(1)}, "not valid Unicode"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_cannot_be_stored_is_refused_by_its_path(repo, kind):
    """And nothing is committed."""
    make, message = UNSUPPORTED[kind]
    with pytest.raises(ciuic.UnsupportedState, match=message):
        repo.commit(extra=make())
    assert list(repo.log()) == []
    assert not list((repo_path(repo) / "tmp").iterdir())


def repo_path(repo):
    from pathlib import Path

    return Path(repo.path)


@pytest.mark.parametrize("levels", [1, 40, 80, 90, 92, 93, 94, 95, 96, 97, 98, 99, 100, 140, 148])
@pytest.mark.parametrize("leaf", ["plain", "tensor"])
def test_nesting_is_refused_or_comes_back(repo, levels, leaf):
    """There is no depth at which a commit succeeds and its restore does not.

    Between 97 and 100 levels a plain value was once accepted on its own and then had no encoding inside its tree.
    """
    inner = torch.arange(3) if leaf == "tensor" else "leaf"
    try:
        repo.commit(extra={"a": deep(levels, inner)})
    except ciuic.UnsupportedState:
        assert levels > 80
        return
    restored = {}
    repo.restore("HEAD", extra=restored)
    value = restored["a"]
    for _ in range(levels):
        (value,) = value
    assert torch.equal(value, inner) if leaf == "tensor" else value == inner


@pytest.mark.parametrize("dots", [1, 90, 101, 300, 3000])
def test_names_with_many_dots_are_refused_or_come_back(repo, dots):
    """A state dict's names are split at their dots into nodes."""
    model = {"a" + ".a" * dots: torch.ones(2), "": torch.zeros(1), ".": torch.zeros(2), "x.": torch.zeros(3)}
    try:
        repo.commit(model)
    except ciuic.UnsupportedState:
        assert dots > 100
        return
    assert {name: value.tolist() for name, value in repo.load("HEAD")["model"].items()} == {
        name: value.tolist() for name, value in model.items()
    }


@pytest.mark.parametrize("name", ["model", "optimizer", "scheduler", "scaler"])
def test_components_are_objects_with_state(repo, name):
    """A plain value in the place of an object is refused, with a hint at extra."""
    for wrong in (5, {"a": 5}, [torch.ones(1)] if name != "model" else [5]):
        with pytest.raises(ciuic.UnsupportedState, match=rf"^{name}.* has no state_dict .*extra"):
            repo.commit(**{name: wrong})


@pytest.mark.parametrize(
    "details",
    [
        {"message": None},
        {"message": 5},
        {"message": "\ud800"},
        {"metrics": {"loss": "high"}},
        {"metrics": {"loss": torch.ones(2)}},
        {"metrics": {"loss": None}},
        {"metrics": {"loss": 10**400}},
        {"metrics": {"\ud800": 1}},
        {"config": {"f": len}},
        {"config": {"x": torch.ones(1)}},
        {"config": {"x": "\ud800"}},
        {"config": {"x": deep(2000, 1)}},
        {"config": {"x": circle()}},
    ],
    ids=lambda details: next(iter(details)),
)
def test_details_that_cannot_be_stored_are_refused(repo, details):
    """A message that is no text was once committed, and the snapshot could never be read again."""
    with pytest.raises(ciuic.UnsupportedState):
        repo.commit(extra={"x": 1}, **details)
    assert list(repo.log()) == []


def test_details_come_back(repo):
    """Numbers of any library, and the plain types of a config."""
    config = {"lr": 3e-4, "betas": (0.9, 0.999), "layers": [1, {"x": None}], 5: b"x"}
    metrics = {
        "loss": torch.tensor(2.5, requires_grad=True),
        "acc": numpy.float32(0.5),
        "n": 3,
        "nan": float("nan"),
        "yes": True,
    }
    repo.commit(extra={}, step=numpy.int64(7), epoch=torch.tensor(2), message="ü\n", metrics=metrics, config=config)
    repo.commit(step=True)
    snapshot = ciuic.Repo(repo.path).resolve("HEAD~1")
    assert (snapshot.step, snapshot.epoch, snapshot.message) == (7, 2, "ü\n")
    assert snapshot.config == config
    assert repr(snapshot.metrics) == repr({"n": 3.0, "acc": 0.5, "nan": float("nan"), "yes": 1.0, "loss": 2.5})
    assert repo.resolve("HEAD").step == 1

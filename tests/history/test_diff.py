"""The numeric diff: every dtype, every kind of leaf, judged by bits and in bounded memory."""

import math
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciuic.errors import Pruned, UnknownPath
from ciuic.history import tensor_statistics
from ciuic.history.diff import TypeChange, ValueChange, diff_states
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Container, Tensor, Value

NUMERIC_DTYPES = [
    name
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
]


def recorded(config=None, metrics=None, tree=()):
    """A snapshot with this config and these metrics."""
    return Snapshot(
        id="0" * 64, step=1, epoch=None, timestamp=datetime(2025, 4, 5, tzinfo=timezone.utc), message="",
        metrics=metrics or {}, config=config or {}, parents=(), tree=dict.fromkeys(tree, ""), contains=(), raw_bytes={},
        added_bytes=0,
    )  # fmt: skip


class MemorySource:
    """Bytes in memory; counts what is read."""

    def __init__(self, data, chunk_size=None):
        self.data = bytes(data)
        self.nbytes = len(self.data)
        self.reads = []
        if chunk_size:
            self.chunk_size = chunk_size
            self.chunks = tuple(self.data[i : i + chunk_size] for i in range(0, self.nbytes, chunk_size))

    def read(self, start, stop):
        self.reads.append((start, stop))
        return memoryview(self.data)[start:stop]


def leaf(values, dtype=None, chunk_size=None, tie=None):
    tensor = torch.as_tensor(values, dtype=dtype and getattr(torch, dtype))
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    name = str(tensor.dtype).removeprefix("torch.")
    return Tensor(name, tuple(tensor.shape), MemorySource(data, chunk_size), tie=tie)


def raw_leaf(array, dtype, shape=None):
    return Tensor(dtype, array.shape if shape is None else shape, MemorySource(array.tobytes()))


def module(**tensors):
    return Container("module", tuple((name.replace("__", "."), node) for name, node in tensors.items()))


def diff(a, b, **options):
    return diff_states(recorded(), recorded(), a, b, **options)


def change(a, b):
    (only,) = diff({"model": module(w=a)}, {"model": module(w=b)}).tensors
    return only


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_statistics_of_every_dtype_equal_torch_in_float64(dtype):
    if dtype == "bool":
        a, b = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    else:
        a = torch.tensor([1.0, 2.0, 4.0, 8.0]).to(getattr(torch, dtype))
        b = torch.tensor([1.0, 4.0, 4.0, 2.0]).to(getattr(torch, dtype))
    exact_a, exact_b = a.to(torch.complex128), b.to(torch.complex128)
    found = change(leaf(a), leaf(b))
    assert (found.path, found.dtype, found.shape, found.elements) == ("model/w", dtype, (4,), 4)
    assert found.changed_elements == 2
    assert found.changed_fraction == 0.5
    assert found.l2 == pytest.approx(torch.linalg.vector_norm(exact_b - exact_a).item(), rel=1e-15)
    assert found.relative_l2 == pytest.approx(found.l2 / torch.linalg.vector_norm(exact_a).item(), rel=1e-15)
    assert found.max_abs == (exact_b - exact_a).abs().max().item()
    cosine = (exact_a * exact_b.conj()).real.sum() / exact_a.norm() / exact_b.norm()
    assert found.cosine == pytest.approx(cosine.item(), rel=1e-14)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int64", -(2**63), 2**63 - 1),
        ("uint64", 0, 2**64 - 1),
        ("int64", -3, 2**53 - 5),
        ("uint32", 0, 2**32 - 1),
    ],
)
def test_integer_differences_are_exact_within_float64(dtype, low, high):
    a, b = np.array([low, 7], dtype), np.array([high, 7], dtype)
    found = change(raw_leaf(a, dtype), raw_leaf(b, dtype))
    assert found.max_abs == float(high - low)
    assert found.l2 == pytest.approx(float(high - low), rel=1e-15)
    assert found.changed_elements == 1


def test_quantised_integers_are_compared_in_quantisation_steps():
    a, b = np.array([-128, 0], np.int8), np.array([127, 0], np.int8)
    assert change(raw_leaf(a, "qint8"), raw_leaf(b, "qint8")).max_abs == 255.0


def test_elements_are_told_apart_by_their_bits():
    """-0.0 is not 0.0, a NaN equals itself, and another NaN payload is a change."""
    nan, other_nan = 0x7FC00000, 0x7FC00001
    a = np.array([0x00000000, nan, nan, 0x3F800000], np.uint32)
    b = np.array([0x80000000, nan, other_nan, 0x3F800000], np.uint32)
    found = change(raw_leaf(a, "float32"), raw_leaf(b, "float32"))
    assert found.changed_elements == 2
    assert found.nonfinite_elements == 1
    assert (found.l2, found.relative_l2, found.max_abs, found.cosine) == (0.0, 0.0, 0.0, 1.0)


def test_non_finite_elements_are_counted_and_left_out():
    a = leaf([1.0, math.inf, 3.0, math.nan, math.inf])
    b = leaf([math.nan, math.inf, 5.0, 1.0, -math.inf])
    found = change(a, b)
    assert (found.changed_elements, found.nonfinite_elements) == (4, 3)
    assert (found.l2, found.max_abs, found.relative_l2) == (2.0, 2.0, 2.0 / 3.0)


def test_a_change_from_zero_is_infinitely_large_and_has_no_cosine():
    found = change(leaf([0.0, 0.0]), leaf([3.0, 4.0]))
    assert (found.l2, found.relative_l2, found.cosine) == (5.0, math.inf, None)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_norms_survive_the_ends_of_the_range_of_float64(scale):
    found = change(leaf([3 * scale, 0.0], "float64"), leaf([3 * scale, 4 * scale], "float64"))
    assert found.l2 == pytest.approx(4 * scale, rel=1e-15)
    assert found.relative_l2 == pytest.approx(4 / 3, rel=1e-15)
    assert found.cosine is None


@pytest.mark.parametrize(
    ("dtype", "nbytes", "elements", "changed"),
    [("float4_e2m1fn_x2", 4, 4, 1), ("bits16", 8, 4, 1), ("uint4", 2, 2, 1)],
)
def test_a_dtype_without_numbers_is_compared_by_its_bytes(dtype, nbytes, elements, changed):
    a, b = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    b[0] = 1
    found = change(raw_leaf(a, dtype, (4,)), raw_leaf(b, dtype, (4,)))
    assert (found.elements, found.changed_elements) == (elements, changed)
    assert (found.l2, found.relative_l2, found.max_abs, found.cosine) == (None, None, None, None)


def test_random_generators_in_another_state_are_just_named():
    def state(torch_state, position, weight):
        arrays = Container("dict", (("key", leaf([1, 2], "int32")), ("pos", Value(position))))
        rng = Container(
            "dict", (("torch", leaf(torch_state, "uint8")), ("numpy", arrays), ("python", Value((3, None))))
        )
        return {"rng": rng, "model": module(w=leaf([weight]))}

    found = diff(state([1, 2], 5, 1.0), state([9, 9], 6, 1.0))
    assert found.generators == ("rng/torch", "rng/numpy")
    assert (found.tensors, found.values, found.modules, found.unchanged_count) == ((), (), (), 1)
    assert not found.same_state
    assert diff(state([1, 2], 5, 1.0), state([1, 2], 5, 1.0)).same_state
    assert diff(state([1, 2], 5, 1.0), state([9, 9], 5, 2.0), path="model").generators == ()


def test_generators_of_the_position_in_the_data_are_just_named():
    """`ciuic diff` of two epochs listed their words among the tensors, and at a loop's end nine keys as removed."""

    def state(**generators):
        names = {name: Container("dict", (("words", leaf(words)),)) for name, words in generators.items()}
        position = (("epoch", Value(1)), ("generators", Container("dict", tuple(names.items()))))
        return {"data": Container("dict", position)}

    moved = diff(state(torch=[1.0, 2.0], numpy=[3.0]), state(torch=[1.0, 9.0], python=[4.0]))
    assert moved.generators == ("data/generators/torch", "data/generators/numpy", "data/generators/python")
    assert (moved.tensors, moved.added, moved.removed, moved.same_state) == ((), (), (), False)


def test_scalars_and_empty_tensors():
    assert change(leaf(2.0), leaf(3.0)).shape == ()
    same = diff({"model": module(w=leaf(torch.empty(0, 3)))}, {"model": module(w=leaf(torch.empty(0, 3)))})
    assert same.same_state
    assert same.unchanged_count == 1


def test_equal_chunk_ids_are_not_read():
    a, b = leaf([1.0, 2.0], chunk_size=4), leaf([1.0, 2.0], chunk_size=4)
    assert diff({"model": module(w=a)}, {"model": module(w=b)}).unchanged_count == 1
    assert a.source.reads == b.source.reads == []


def test_equal_bytes_under_other_chunk_sizes_are_unchanged():
    a, b = leaf([1.0, 2.0], chunk_size=4), leaf([1.0, 2.0], chunk_size=8)
    assert diff({"model": module(w=a)}, {"model": module(w=b)}).same_state


def test_of_a_changed_tensor_equal_chunks_are_read_once_and_pieces_stay_small(monkeypatch):
    monkeypatch.setattr(tensor_statistics, "PIECE_BYTES", 32)
    values = torch.arange(16, dtype=torch.float32)
    other = values.clone()
    other[15] = -1.0
    a, b = leaf(values, chunk_size=8), leaf(other, chunk_size=8)
    found = change(a, b)
    assert a.source.reads == [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert b.source.reads == [(48, 64)]
    assert (found.max_abs, found.changed_elements) == (16.0, 1)
    assert found.l2 == 16.0
    assert found.relative_l2 == pytest.approx(16.0 / values.norm().item())


def test_progress_counts_the_bytes_that_have_to_be_read():
    heard = []
    a = {"model": module(v=leaf([1.0], chunk_size=4), w=leaf([1.0, 2.0]), x=leaf([1.0]))}
    b = {"model": module(v=leaf([1.0], chunk_size=4), w=leaf([1.0, 3.0]), x=leaf([2.0]))}
    diff(a, b, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(8, 12), (12, 12)]


def test_keys_types_and_shapes():
    a = {"model": module(gone=leaf([1.0]), shaped=leaf([1.0, 2.0]), cast=leaf([1.0]), same=leaf([5.0]))}
    b = {"model": module(shaped=leaf([[1.0, 2.0]]), cast=leaf([1.0], "bfloat16"), same=leaf([5.0]), new=Value(3))}
    found = diff(a, b)
    assert found.added == ("model/new",)
    assert found.removed == ("model/gone",)
    assert found.retyped == (
        TypeChange("model/shaped", "float32[2]", "float32[1, 2]"),
        TypeChange("model/cast", "float32[1]", "bfloat16[1]"),
    )
    assert (found.tensors, found.unchanged_count) == ((), 1)


def test_a_component_that_one_snapshot_lacks_is_added_or_removed_key_by_key():
    state = {"model": module(w=leaf([1.0]))}
    more = {**state, "scheduler": Value({"last_epoch": 3, "base_lrs": [0.1]}), "scaler": Value({})}
    assert diff(state, more).added == ("scheduler/last_epoch", "scheduler/base_lrs/0", "scaler")
    assert diff(more, state).removed == ("scheduler/last_epoch", "scheduler/base_lrs/0", "scaler")


def test_hyper_parameters_are_compared_leaf_by_leaf():
    group_a = Value({"lr": 0.1, "betas": (0.9, 0.999), "fused": None, "params": ["w"]})
    group_b = Value({"lr": 0.05, "betas": (0.9, 0.95), "fused": None, "params": ["w"]})
    a = {"optimizer": Container("dict", (("param_groups", Container("list", ((0, group_a),))),))}
    b = {"optimizer": Container("dict", (("param_groups", Container("list", ((0, group_b),))),))}
    assert diff(a, b).values == (
        ValueChange("optimizer/param_groups/0/lr", 0.1, 0.05),
        ValueChange("optimizer/param_groups/0/betas/1", 0.999, 0.95),
    )


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (1, 1.0, False), (1, True, False), (0.0, -0.0, False), (math.nan, math.nan, True), (b"a", "a", False),
        (None, None, True), ([1] * 99, [1] * 99, True), ([1] * 99, [1] * 98, False),
        ([math.nan] * 99, [math.nan] * 99, True), (2**70, 2**70 + 1, False), ("", None, False),
    ],
)  # fmt: skip
def test_plain_values_are_the_same_when_type_and_bits_are(before, after, same):
    found = diff({"extra": Value({"x": before})}, {"extra": Value({"x": after})})
    assert found.same_state is same
    assert found.values == (() if same else (ValueChange("extra/x", before, after),))


def test_the_same_plain_state_compares_equal_however_it_is_nested_in_nodes():
    whole = Value({"a": [1, {"b": 2}], "c": {}})
    nodes = Container(
        "dict",
        (("a", Container("list", ((0, Value(1)), (1, Value({"b": 2}))))), ("c", Container("dict", ()))),
    )
    assert diff({"extra": whole}, {"extra": nodes}).same_state


def test_another_kind_of_container_is_a_type_change():
    assert diff({"extra": Value({"x": [1]})}, {"extra": Value({"x": (1,)})}).retyped == (
        TypeChange("extra/x", "list", "tuple"),
    )


def test_another_quantisation_scheme_is_a_changed_value():
    a, b = leaf([1], "int8"), leaf([1], "int8")
    a, b = (Tensor("qint8", (1,), node.source, quantizer={"scale": scale}) for node, scale in ((a, 0.1), (b, 0.2)))
    found = diff({"model": module(w=a)}, {"model": module(w=b)})
    assert found.values == (ValueChange("model/w/quantizer", {"scale": 0.1}, {"scale": 0.2}),)


def test_tied_tensors_are_compared_once_under_their_first_name():
    def tied(value):
        return {"model": module(embed=leaf([value]), head=leaf([value], tie=("embed",)))}

    assert [tensor.path for tensor in diff(tied(1.0), tied(2.0)).tensors] == ["model/embed"]
    assert [tensor.path for tensor in diff(tied(1.0), tied(2.0), path="model/head").tensors] == ["model/head"]
    loose = {"model": module(embed=leaf([1.0]), head=leaf([2.0]))}
    found = diff(tied(1.0), loose)
    assert found.retyped == (TypeChange("model/head", "float32[1] tied to embed", "float32[1]"),)
    assert [tensor.path for tensor in found.tensors] == ["model/head"]


def test_tensors_are_sorted_by_what_changed_most():
    names = {
        "little": (1.0, 1.1),
        "much": (1.0, 3.0),
        "zero": (0.0, 1e-9),
        "nan": (1.0, math.nan),
        "same": (1.0, 1.0),
    }
    a = {"model": module(**{name: leaf([before]) for name, (before, _) in names.items()})}
    b = {"model": module(**{name: leaf([after]) for name, (_, after) in names.items()})}
    found = diff(a, b)
    assert [tensor.path for tensor in found.tensors] == [
        "model/nan",
        "model/zero",
        "model/much",
        "model/little",
    ]
    assert found.unchanged_count == 1


def test_changes_are_summed_over_every_module():
    a = {"model": module(layers__0__w=leaf([3.0, 0.0]), layers__0__b=leaf([4.0]), layers__1__w=leaf([1.0]))}
    b = {"model": module(layers__0__w=leaf([3.0, 3.0]), layers__0__b=leaf([0.0]), layers__1__w=leaf([1.0]))}
    found = {total.path: total for total in diff(a, b).modules}
    assert set(found) == {"model", "model/layers", "model/layers.0"}
    whole, layer = found["model"], found["model/layers.0"]
    assert (layer.depth, layer.tensors, layer.changed_tensors) == (2, 2, 2)
    assert (layer.l2, layer.relative_l2, layer.max_abs) == (5.0, 1.0, 4.0)
    assert (whole.depth, whole.tensors, whole.elements, whole.changed_elements) == (0, 3, 4, 2)
    assert whole.changed_fraction == 0.5


@pytest.mark.parametrize("name", ["", "generator"])
def test_optimizer_state_is_summed_by_the_modules_of_its_parameters_and_by_slot(name):
    def optimizer(step, moment):
        slots = Container("dict", (("step", leaf(step)), ("exp_avg", leaf([moment]))))
        state = Container("dict", (("state", Container("dict", (("layers.0.w", slots),))),))
        return {"optimizer": Container("dict", ((name, state),)) if name else state}

    prefix = f"optimizer/{name}/state".replace("//", "/")
    found = diff(optimizer(1.0, 1.0), optimizer(2.0, 1.5))
    assert {(total.path, total.slot, total.l2) for total in found.modules} == {
        (prefix + module, slot, l2)
        for module in ("", "/layers", "/layers.0")
        for slot, l2 in (("step", 1.0), ("exp_avg", 0.5))
    }


def test_config_and_metrics_are_compared_key_by_key():
    a = recorded({"lr": 0.1, "data": {"name": "stdlib", "files": 3}}, {"loss": 2.5, "old": 1.0})
    b = recorded({"lr": 0.2, "data": {"name": "stdlib"}}, {"loss": 2.0, "new": math.nan})
    found = diff_states(a, b, {}, {})
    assert found.config == (ValueChange("lr", 0.1, 0.2), ValueChange("data/files", 3, None, "removed"))
    assert found.metrics[:2] == (ValueChange("loss", 2.5, 2.0), ValueChange("old", 1.0, None, "removed"))
    assert (found.metrics[2].path, found.metrics[2].kind) == ("new", "added")
    assert found.same_state


def test_a_pruned_component_is_neither_added_nor_removed():
    state = {"model": module(w=leaf([1.0])), "optimizer": Value({"lr": 0.1})}
    both, pruned = recorded(tree=("model", "optimizer")), {"model": state["model"]}
    for found in (diff_states(both, both, state, pruned), diff_states(both, both, pruned, state)):
        assert found.pruned == ("optimizer",)
        assert found.same_state
        assert found.unchanged_count == 1
    assert diff_states(both, both, state, pruned, path="model").pruned == ()
    with pytest.raises(Pruned, match="optimizer/lr"):
        diff_states(both, both, state, pruned, path="optimizer/lr")


def test_a_path_limits_the_comparison():
    a = {"model": module(l__1__w=leaf([1.0]), l__10__w=leaf([1.0])), "extra": Value({"seen": 1})}
    b = {"model": module(l__1__w=leaf([2.0]), l__10__w=leaf([2.0])), "extra": Value({"seen": 2})}
    found = diff(a, b, path="model/l.1")
    assert [tensor.path for tensor in found.tensors] == ["model/l.1.w"]
    assert found.values == ()
    assert [tensor.path for tensor in diff(a, b, path="model/").tensors] == ["model/l.1.w", "model/l.10.w"]
    with pytest.raises(UnknownPath, match=r"model/l\.7"):
        diff(a, b, path="model/l.7")


bits = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)


@given(bits, bits)
def test_any_float32_bits_compare_as_numpy_does(left, right):
    size = min(len(left), len(right))
    a, b = np.array(left[:size], np.uint32), np.array(right[:size], np.uint32)
    found = diff({"model": module(w=raw_leaf(a, "float32"))}, {"model": module(w=raw_leaf(b, "float32"))})
    assert found.same_state == bool((a == b).all())
    with np.errstate(invalid="ignore"):  # a signalling NaN, and infinity less infinity
        x, y = a.view(np.float32).astype(np.float64), b.view(np.float32).astype(np.float64)
        y_less_x = y - x
    finite = np.isfinite(x) & np.isfinite(y)
    for tensor in found.tensors:
        assert tensor.changed_elements == np.count_nonzero(a != b)
        assert tensor.nonfinite_elements == np.count_nonzero((a != b) & ~finite)
        assert tensor.max_abs == np.abs(y_less_x)[finite].max(initial=0.0)
        assert tensor.l2 == pytest.approx(np.linalg.norm(y_less_x[finite]), rel=1e-12)
        assert tensor.cosine is None or -1.0 <= tensor.cosine <= 1.0


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(plain, plain)
def test_a_state_equals_itself_and_a_diff_is_its_own_mirror(left, right):
    assert diff({"extra": Value(left)}, {"extra": Value(left)}).same_state
    there = diff({"extra": Value(left)}, {"extra": Value(right)})
    back = diff({"extra": Value(right)}, {"extra": Value(left)})
    assert there.same_state == back.same_state
    assert sorted(there.added) == sorted(back.removed)
    assert len(there.values) == len(back.values)

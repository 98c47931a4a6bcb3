"""Every dtype, layout and form of tensor comes back bit for bit, in place and loaded."""

import math

import numpy
import pytest
import torch

import ciuic
from ciuic.objects.dtypes import DTYPE_WIDTHS, NUMPY_DTYPES
from ciuic.state.tensors import dtype_name

pytestmark = pytest.mark.filterwarnings("ignore:.*quantize.*deprecated:UserWarning")
QUANTISED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}
DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)} - QUANTISED, key=str)
SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5), (3000, 3)]


def raw(tensor):
    """The bytes of a tensor in row-major order."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu()
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def same(a, b):
    return (a.dtype, a.shape, raw(a)) == (b.dtype, b.shape, raw(b))


def random_bits(shape, dtype):
    """A tensor of any bits at all: NaNs with payloads, denormals, -0.0 and infinities among them."""
    width = DTYPE_WIDTHS[dtype_name(dtype)]
    high = 2 if dtype is torch.bool else 256  # other bytes are no bools
    data = torch.randint(0, high, (math.prod(shape) * width,), dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_of_this_torch_comes_back(repo, dtype):
    """All shapes of a dtype, scalars and empty ones too, restored in place and loaded anew."""
    tensors = {str(shape): random_bits(shape, dtype) for shape in SHAPES}
    repo.commit(extra=tensors)
    live = {name: random_bits(tensor.shape, dtype) for name, tensor in tensors.items()}
    places = {name: tensor.data_ptr() for name, tensor in live.items()}
    repo.restore("HEAD", extra=live)
    state = repo.load("HEAD")["extra"]
    for name, tensor in tensors.items():
        assert same(live[name], tensor), name
        assert live[name].data_ptr() == places[name], name
        assert same(state[name], tensor), name


def test_no_dtype_of_this_torch_is_unknown():
    """A dtype that a new torch brings is noticed here first."""
    assert {dtype_name(dtype) for dtype in (*DTYPES, *QUANTISED)} <= set(DTYPE_WIDTHS)


def test_special_floats_keep_their_bits(repo):
    """-0.0, infinities, NaNs with a payload and signalling NaNs."""
    bits32 = torch.tensor([0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0x00000001], dtype=torch.int64)
    tensor = bits32.to(torch.int32).view(torch.float32)
    repo.commit(extra={"x": tensor})
    live = torch.zeros(6)
    repo.restore("HEAD", extra={"x": live})
    assert raw(live) == raw(tensor)


def layouts():
    base = torch.arange(24.0).reshape(2, 3, 4)
    image = torch.arange(2 * 3 * 4 * 5, dtype=torch.bfloat16).reshape(2, 3, 4, 5)
    numbers = torch.complex(torch.arange(6.0), torch.arange(6.0) + 1)
    return {
        "transposed": base.transpose(0, 2),
        "strided": torch.arange(40.0)[::3],
        "column": torch.arange(20.0).reshape(4, 5)[:, 2],
        "offset": torch.arange(20.0)[7:],
        "channels last": image.to(memory_format=torch.channels_last),
        "conjugate": numbers.conj(),
        "negative": numbers.conj().imag,
        "big transposed": torch.arange(200 * 300, dtype=torch.float64).reshape(200, 300).t(),
        "big inner slice": torch.arange(50 * 40 * 30).reshape(50, 40, 30)[:, 3:37:2, ::-1 + 2],
        "fp8 transposed": torch.arange(35, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(5, 7).t(),
        "bool strided": (torch.arange(31) % 3 == 0)[::2],
        "row of one": torch.arange(12.0).reshape(1, 12).expand(1, 12),
    }  # fmt: skip


@pytest.mark.parametrize("name", layouts())
def test_every_layout_is_stored_and_filled_row_by_row(repo, name):
    """What is not contiguous is stored as its elements in order, and filled where it is without changing its layout."""
    tensor = layouts()[name]
    expected = raw(tensor)
    repo.commit(extra={"x": tensor})
    strides = tensor.stride()
    (tensor if tensor.dtype is not torch.float8_e4m3fn else tensor.view(torch.uint8)).fill_(1)
    assert raw(tensor) != expected
    repo.restore("HEAD", extra={"x": tensor})
    assert (raw(tensor), tensor.stride()) == (expected, strides)
    assert raw(repo.load("HEAD")["extra"]["x"]) == expected


def test_an_expanded_tensor_is_stored_in_full_and_never_filled(repo):
    """Its elements share memory: the restore is refused before anything changes, and loading gives all of it."""
    expanded = torch.tensor([[1.0], [2.0]]).expand(2, 3000)
    repo.commit(extra={"first": torch.ones(2), "x": expanded})
    first = torch.zeros(2)
    with pytest.raises(ciuic.StateMismatch, match=r"extra/x.*expanded"):
        repo.restore("HEAD", extra={"first": first, "x": torch.zeros(2, 1).expand(2, 3000)})
    assert first.tolist() == [0, 0]
    assert torch.equal(repo.load("HEAD")["extra"]["x"], expanded)


def test_the_rest_of_a_storage_is_left_alone(repo):
    """Filling a slice touches that slice only."""
    base = torch.arange(10.0)
    repo.commit(extra={"x": base[2:5]})
    base.fill_(-1)
    repo.restore("HEAD", extra={"x": base[2:5]})
    assert base.tolist() == [-1, -1, 2, 3, 4, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32], ids=str)
def test_quantised_tensors_come_back_with_their_scales(repo, dtype):
    """Per tensor and per channel, loaded and in place."""
    values = torch.linspace(-2, 2, 60).reshape(3, 4, 5)
    per_tensor = torch.quantize_per_tensor(values, 0.1, 7, dtype)
    scales, points = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64), torch.tensor([0, 3, 2, 1])
    per_channel = torch.quantize_per_channel(values, scales, points, 1, dtype)
    repo.commit(extra={"t": per_tensor, "c": per_channel})
    state = repo.load("HEAD")["extra"]
    assert same(state["t"], per_tensor) and same(state["c"], per_channel)
    assert (state["t"].q_scale(), state["t"].q_zero_point()) == (0.1, 7)
    assert torch.equal(state["c"].q_per_channel_scales(), scales)
    assert torch.equal(state["c"].q_per_channel_zero_points(), points)
    assert state["c"].q_per_channel_axis() == 1
    live = {
        "t": torch.quantize_per_tensor(values * 0, 0.1, 7, dtype),
        "c": torch.quantize_per_channel(values * 0, scales, points, 1, dtype),
    }
    repo.restore("HEAD", extra=live)
    assert same(live["t"], per_tensor) and same(live["c"], per_channel)


@pytest.mark.parametrize("dtype", [torch.quint4x2, torch.quint2x4], ids=str)
@pytest.mark.parametrize("columns", [1, 5, 6, 8])
def test_packed_quantised_tensors_come_back(repo, dtype, columns):
    """Dtypes of which a byte holds several elements, also where a row does not fill its last byte."""
    values = torch.randn(3, columns)
    scales, points = torch.rand(3) + 0.1, torch.rand(3)
    stored = {
        "t": torch.quantize_per_tensor(values, 0.1, 1, dtype),
        "c": torch.quantize_per_channel(values, scales, points, 0, dtype),
    }
    live = {
        "t": torch.quantize_per_tensor(values * 0, 0.1, 1, dtype),
        "c": torch.quantize_per_channel(values * 0, scales, points, 0, dtype),
    }
    repo.commit(extra=stored)
    repo.restore("HEAD", extra=live)
    loaded = repo.load("HEAD")["extra"]
    for name, tensor in stored.items():
        for other in (live[name], loaded[name]):
            assert other.dtype == dtype and other.qscheme() == tensor.qscheme()
            assert bytes(other.untyped_storage()) == bytes(tensor.untyped_storage())
    assert torch.equal(loaded["c"].q_per_channel_scales(), scales)


def test_other_quantisers_are_a_mismatch(repo):
    """The same integers under another scale are other values."""
    repo.commit(extra={"x": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)})
    with pytest.raises(ciuic.StateMismatch, match="extra/x: quantised by other scales"):
        repo.restore("HEAD", extra={"x": torch.quantize_per_tensor(torch.ones(3), 0.2, 0, torch.qint8)})


@pytest.mark.parametrize("code", sorted(NUMPY_DTYPES))
def test_numpy_arrays_and_scalars_come_back_as_such(repo, code):
    """Arrays are filled where they are; loaded ones are arrays and scalars of the same dtype."""
    array = (numpy.arange(5000) % 100).astype(code).reshape(50, 100)
    scalar = array[3, 3]
    values = {"a": array, "s": scalar, "z": numpy.array(3, dtype=code), "e": array[:0], "t": array.T}
    repo.commit(extra=values)
    state = repo.load("HEAD")["extra"]
    for name, value in values.items():
        assert type(state[name]) is type(value), name
        assert state[name].dtype == value.dtype
        numpy.testing.assert_array_equal(state[name], value)
    live = {"a": numpy.zeros_like(array), "s": None, "t": numpy.zeros((200, 50), dtype=code)[::2]}
    before = live["a"], live["t"]
    repo.restore("HEAD", extra=live)
    assert live["a"] is before[0] and live["t"] is before[1]
    numpy.testing.assert_array_equal(live["a"], array)
    numpy.testing.assert_array_equal(live["t"], array.T)
    assert live["s"] == scalar and type(live["s"]) is type(scalar)


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(5, dtype=">f4"),
        numpy.arange(10.0)[::-1],
        numpy.broadcast_to(numpy.arange(3.0), (4, 3)),
        numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        numpy.arange(3, dtype="Q"),
        numpy.arange(3, dtype="q"),
    ],
    ids=["big endian", "backwards", "read-only", "fortran", "unsigned long long", "long long"],
)
def test_awkward_arrays_come_back_by_value(repo, array):
    """Byte order, direction and order in memory are not state."""
    repo.commit(extra={"x": array})
    numpy.testing.assert_array_equal(repo.load("HEAD")["extra"]["x"], array)


@pytest.mark.parametrize(
    "array",
    [
        numpy.array([object()]),
        numpy.array(["text"]),
        numpy.array([(1, 2.0)], dtype="i4,f4"),
        numpy.array("2020-01-01", dtype="datetime64[D]"),
        numpy.datetime64("2020-01-01"),
        numpy.longdouble(1),
        numpy.ma.masked_array([1, 2], [True, False]),
    ],
    ids=["objects", "text", "structured", "dates", "date", "long double", "masked"],
)
def test_arrays_that_are_not_numbers_are_refused_by_their_path(repo, array):
    """A masked array once lost its mask."""
    with pytest.raises(ciuic.UnsupportedState, match=r"^extra/deep/x"):
        repo.commit(extra={"deep": {"x": array}})


def test_arrays_of_another_form_are_a_mismatch(repo):
    """Shape, dtype and writability, each named."""
    repo.commit(extra={"a": numpy.zeros(3), "b": numpy.zeros(3), "c": numpy.zeros(3)})
    frozen = numpy.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(ciuic.StateMismatch) as caught:
        repo.restore("HEAD", extra={"a": numpy.zeros(4), "b": numpy.zeros(3, "f4"), "c": frozen})
    assert caught.value.problems == (
        "extra/a: float64 [3] in the snapshot, float64 [4] in the live array",
        "extra/b: float64 [3] in the snapshot, float32 [3] in the live array",
        "extra/c: the live array is read-only",
    )


def test_a_tensor_larger_than_a_chunk_is_cut_and_joined(repo):
    """Sizes around the edges of a chunk of 4096 bytes."""
    sizes = [1023, 1024, 1025, 2047, 2048, 2049, 10_000]
    tensors = {str(size): torch.arange(size, dtype=torch.float32) for size in sizes}
    repo.commit(extra=tensors)
    state = repo.load("HEAD")["extra"]
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("device", ["meta"])
def test_a_default_device_does_not_reach_the_restore(repo, device):
    """``torch.set_default_device`` decided once where restored bytes went, and the restore failed half-way."""
    tensors = {"x": torch.arange(3.0), "q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}
    repo.commit(extra=tensors)
    live = {"x": torch.zeros(3), "q": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)}
    with torch.device(device):
        repo.restore("HEAD", extra=live)
        loaded = repo.load("HEAD")["extra"]["x"]
    assert live["x"].tolist() == loaded.tolist() == [0, 1, 2]


def test_a_restore_works_in_inference_mode(repo):
    """Inference tensors have no version counter to move."""
    with torch.inference_mode():
        tensor = torch.arange(3.0)
        repo.commit(extra={"x": tensor})
        tensor.zero_()
        repo.restore("HEAD", extra={"x": tensor})
        assert tensor.tolist() == [0, 1, 2]


def test_autograd_sees_that_a_tensor_was_restored(repo):
    """A graph that saved the old values fails instead of giving wrong gradients."""
    weight = torch.nn.Parameter(torch.ones(3))
    repo.commit(extra={"w": weight})
    loss = (weight * weight).sum()
    repo.restore("HEAD", extra={"w": weight})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


UNSUPPORTED = {
    "meta": (lambda: torch.zeros(2, device="meta"), "meta device"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse_coo"),
    "uninitialised": (lambda: torch.nn.LazyLinear(3).weight, "not initialised yet"),
    "packed view": (
        lambda: torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.quint4x2)[1:],
        "view into a tensor of the packed dtype quint4x2",
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_tensors_without_plain_bytes_are_refused_by_their_path(repo, kind):
    """Nothing is committed, and the message says what to do."""
    make, reason = UNSUPPORTED[kind]
    with pytest.raises(ciuic.UnsupportedState, match=rf"^extra/deep/0 .*{reason}.*\."):
        repo.commit(extra={"deep": [make()]})
    assert list(repo.log()) == []


def test_live_tensors_without_plain_bytes_are_a_mismatch(repo):
    """A restore into a meta tensor once did nothing and said that all was well."""
    repo.commit(extra={"a": torch.ones(2), "b": torch.eye(3)})
    with pytest.raises(ciuic.StateMismatch) as caught:
        repo.restore("HEAD", extra={"a": torch.ones(2, device="meta"), "b": torch.eye(3).to_sparse()})
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["extra/a", "extra/b"]

"""safetensors in and out: what we write, the reference implementation reads, and the other way round."""

import contextlib
import json
import os

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciuic.errors import InvalidImport, StorageError, UnknownPath, UnsafePath, UnsupportedState
from ciuic.interchange.exporting import export_snapshot
from ciuic.interchange.importing import read_file
from ciuic.interchange.safetensors_header import DTYPES, LARGEST_HEADER
from ciuic.objects.state_tree import Container, Tensor, Value
from ciuic.state.tensors import tensor_leaf

KNOWN_DTYPES = [name for name in DTYPES if hasattr(torch, name)]


class Tied(torch.nn.Module):
    """The head sorts before the embedding, so the name that stays is not the model's first."""

    def __init__(self):
        super().__init__()
        self.word_embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.word_embedding.weight


def leaves(state, prefix=()):
    """A flat state as a module's tree, ties by memory."""
    first, items = {}, []
    for name, tensor in state.items():
        leaf = tensor_leaf(tensor, name)
        seen = first.setdefault(tensor.data_ptr(), (*prefix, name)) if tensor.numel() else (*prefix, name)
        tie = seen if seen != (*prefix, name) else None
        items.append((name, Tensor(leaf.dtype, leaf.shape, leaf.source, tie=tie)))
    return Container("module", tuple(items))


def export(state, file, **options):
    node = state if isinstance(state, Container) else leaves(state)
    return export_snapshot({"model": node}, str(file), **options)


def same(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.reshape(-1).view(torch.uint8).equal(
        b.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("dtype", KNOWN_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4)])
def test_every_dtype_goes_out_and_comes_back(tmp_path, dtype, shape):
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (*shape, DTYPES[dtype][1]), dtype=torch.uint8)
    tensor = bits.view(getattr(torch, dtype)).reshape(shape)
    export({"w": tensor}, tmp_path / "m.safetensors")
    assert same(read_file(str(tmp_path / "m.safetensors"))[0]["model"]["w"], tensor)
    if dtype != "float8_e8m0fnu":  # the reference reads it, but not into torch
        assert same(safetensors.torch.load_file(tmp_path / "m.safetensors")["w"], tensor)


def test_files_of_the_reference_implementation_are_read(tmp_path):
    state = {"b.weight": torch.randn(3, 2), "a": torch.arange(5), "h": torch.ones(3, dtype=torch.bfloat16)}
    safetensors.torch.save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt", "made by": "somebody"})
    components, metadata = read_file(str(tmp_path / "m.safetensors"), to="model")
    assert set(components) == {"model"}
    assert components["model"].keys() == state.keys()
    assert all(same(components["model"][name], tensor) for name, tensor in state.items())
    assert metadata == {"format": "pt", "made by": "somebody"}


def test_tensors_are_aligned_and_metadata_goes_into_the_header(tmp_path):
    state = {
        "byte": torch.ones(3, dtype=torch.uint8),
        "wide": torch.ones(2, dtype=torch.float64),
        "half": torch.ones(1).half(),
    }
    report = export(state, tmp_path / "m.safetensors", metadata={"ciuic.step": "7"})
    raw = (tmp_path / "m.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt", "ciuic.step": "7"}
    assert length % 8 == 0
    for name, entry in header.items():
        assert entry["data_offsets"][0] % state[name].element_size() == 0
    assert (report.tensors, report.size, report.tied) == (3, len(raw), {})


def test_tied_weights_are_written_once_and_load_model_takes_the_file(tmp_path):
    torch.manual_seed(1)
    model, other = Tied(), Tied()
    report = export(model.state_dict(), tmp_path / "m.safetensors")
    assert report.tied == {"word_embedding.weight": "head.weight"}
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert "word_embedding.weight" not in file.keys()  # noqa: SIM118  # not a mapping
        assert file.metadata()["word_embedding.weight"] == "head.weight"
    assert safetensors.torch.load_model(other, tmp_path / "m.safetensors") == (set(), [])
    assert all(same(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert other.head.weight is other.word_embedding.weight


def test_the_reference_writes_tied_names_the_same_way(tmp_path):
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "theirs.safetensors"), metadata={"format": "pt"})
    export(model.state_dict(), tmp_path / "ours.safetensors")
    files = [safetensors.safe_open(tmp_path / name, "pt") for name in ("theirs.safetensors", "ours.safetensors")]
    theirs, ours = ((set(file.keys()), file.metadata()) for file in files)
    assert theirs == ours


def test_an_import_ties_the_names_again(tmp_path):
    model = Tied()
    for file in ("theirs.safetensors", "ours.safetensors"):
        if file.startswith("theirs"):
            safetensors.torch.save_model(model, str(tmp_path / file))
        else:
            export(model.state_dict(), tmp_path / file)
        state = read_file(str(tmp_path / file))[0]["model"]
        assert set(state) == set(model.state_dict())
        assert state["head.weight"] is state["word_embedding.weight"]


def test_a_transposed_view_of_tied_memory_is_a_tensor_of_its_own(tmp_path):
    weight = torch.randn(3, 3)
    node = Container(
        "module",
        (
            ("a", tensor_leaf(weight, "a")),
            ("b", Tensor("float32", (3, 3), tensor_leaf(weight.T, "b").source, tie=("a",))),
        ),
    )
    assert export(node, tmp_path / "m.safetensors").tied == {}
    loaded = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert same(loaded["b"], weight.T.contiguous())


@pytest.mark.parametrize("kind", ["dict", "list", "tuple"])
def test_several_models_keep_their_nesting(tmp_path, kind):
    keys = ("generator", "critic") if kind == "dict" else (0, 1)
    states = {key: {"0.weight": torch.randn(2), "0.bias": torch.randn(1)} for key in keys}
    states[keys[1]]["shared"] = states[keys[0]]["0.weight"]
    first = leaves(states[keys[0]])
    second = leaves({name: states[keys[1]][name] for name in ("0.weight", "0.bias")})
    shared = Tensor("float32", (2,), first["0.weight"].source, tie=(keys[0], "0.weight"))
    second = Container("module", (*second.items, ("shared", shared)))
    export(Container(kind, ((keys[0], first), (keys[1], second))), tmp_path / "m.safetensors")
    names = set(safetensors.torch.load_file(tmp_path / "m.safetensors"))
    assert f"{keys[1]}/0.weight" in names
    state = read_file(str(tmp_path / "m.safetensors"))[0]["model"]
    assert type(state).__name__ == kind
    assert all(same(state[key][name], tensor) for key in keys for name, tensor in states[key].items())
    assert state[keys[1]]["shared"] is state[keys[0]]["0.weight"]


def test_what_a_safetensors_file_cannot_hold_is_named(tmp_path):
    cases = {
        "model/w": Container("module", (("w", Value(3)),)),
        "complex128": leaves({"w": torch.ones(2, dtype=torch.complex128)}),
        "integer key 5": Container("dict", ((5, tensor_leaf(torch.ones(1), "w")),)),
        "read alike": Container(
            "dict",
            (
                ("a/b", tensor_leaf(torch.ones(1), "")),
                ("a", Container("dict", (("b", tensor_leaf(torch.ones(1), "")),))),
            ),
        ),
        "keeps this name": leaves({"__metadata__": torch.ones(1)}),
    }
    for reason, node in cases.items():
        with pytest.raises(UnsupportedState, match=rf"{reason}[^$]*\.pt"):
            export(node, tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == []


def test_only_a_component_that_is_there_and_a_known_suffix(tmp_path):
    node = leaves({"w": torch.ones(1)})
    with pytest.raises(UnknownPath, match="no optimizer"):
        export(node, tmp_path / "m.safetensors", component="optimizer")
    with pytest.raises(UnsupportedState, match="one component"):
        export(node, tmp_path / "m.safetensors", component="all")
    with pytest.raises(UnsupportedState, match="suffix"):
        export(node, tmp_path / "m.weights")
    assert export(node, tmp_path / "m.weights", format="safetensors").format == "safetensors"


def test_an_existing_file_is_replaced_only_by_force(tmp_path):
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"precious")
    with pytest.raises(StorageError, match="force"):
        export({"w": torch.ones(1)}, file)
    assert file.read_bytes() == b"precious"
    export({"w": torch.ones(1)}, file, force=True)
    assert same(safetensors.torch.load_file(file)["w"], torch.ones(1))
    with pytest.raises(StorageError, match="is a folder"):
        export({"w": torch.ones(1)}, tmp_path, format="safetensors", force=True)
    with pytest.raises(StorageError, match="does not exist"):
        export({"w": torch.ones(1)}, tmp_path / "no" / "m.safetensors")


class Broken:
    nbytes = 8

    def __init__(self, error):
        self.error = error

    def read(self, start, stop):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("damaged"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, b"precious"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_an_interrupted_export_leaves_what_was_there(tmp_path, error, before, suffix):
    file = tmp_path / f"m.{suffix}"
    if before:
        file.write_bytes(before)
    with pytest.raises(type(error)):
        export(Container("module", (("w", Tensor("float32", (2,), Broken(error))),)), file, force=True)
    assert os.listdir(tmp_path) == ([file.name] if before else [])
    assert not before or file.read_bytes() == before


def test_progress_counts_bytes(tmp_path):
    heard = []
    export(
        {"a": torch.ones(2), "b": torch.ones(1)},
        tmp_path / "m.safetensors",
        progress=lambda *pair: heard.append(pair),
    )
    assert heard == [(8, 12), (12, 12)]


# Hostile files.


def safetensors_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty file": b"",
    "short length": b"\x01\x02",
    "header longer than the file": safetensors_bytes({"w": entry()}, b"1234", length=1 << 40),
    "header of 2**64 - 1 bytes": b"\xff" * 8 + b"{}",
    "header over the limit": (LARGEST_HEADER + 1).to_bytes(8, "little") + b"{}",
    "header not JSON": safetensors_bytes(b"{not json"),
    "header not UTF-8": safetensors_bytes(b'{"\xff\xfe": 1}'),
    "header a list": safetensors_bytes([]),
    "header nested without end": safetensors_bytes(b'{"a":' * 100_000),
    "header with an endless number": safetensors_bytes(b'{"a":' + b"9" * 50_000 + b"}"),
    "duplicate names": safetensors_bytes(
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "truncated data": safetensors_bytes({"w": entry()}, b"123"),
    "garbage appended": safetensors_bytes({"w": entry()}, b"12345"),
    "offsets past the end": safetensors_bytes({"w": entry(offsets=(4, 8))}, b"1234"),
    "offsets backwards": safetensors_bytes({"w": entry(offsets=(4, 0))}, b"1234"),
    "negative offsets": safetensors_bytes({"w": entry(offsets=(-4, 0))}, b"1234"),
    "overlap": safetensors_bytes({"a": entry(), "b": entry()}, b"1234"),
    "hole": safetensors_bytes({"a": entry(), "b": entry(offsets=(8, 12))}, b"1" * 12),
    "shape larger than its bytes": safetensors_bytes({"w": entry(shape=(2,))}, b"1234"),
    "shape that overflows": safetensors_bytes({"w": entry(shape=(1 << 62, 1 << 62, 0), offsets=(0, 0))}),
    "shape with floats": safetensors_bytes({"w": entry(shape=(1.0,))}, b"1234"),
    "shape with booleans": safetensors_bytes({"w": entry(shape=(True,))}, b"1234"),
    "shape of 100 dimensions": safetensors_bytes({"w": entry(shape=(1,) * 100)}, b"1234"),
    "negative shape": safetensors_bytes({"w": entry(shape=(-1, -1))}, b"1234"),
    "shape NaN": safetensors_bytes(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
    "three offsets": safetensors_bytes({"w": entry(offsets=(0, 4, 4))}, b"1234"),
    "unknown dtype": safetensors_bytes({"w": entry(dtype="F3")}, b"1234"),
    "dtype a list": safetensors_bytes({"w": {**entry(), "dtype": ["F32"]}}, b"1234"),
    "entry a number": safetensors_bytes({"w": 3}),
    "entry with more": safetensors_bytes({"w": {**entry(), "code": "import os"}}, b"1234"),
    "metadata a list": safetensors_bytes({"__metadata__": ["a"]}),
    "metadata of numbers": safetensors_bytes({"__metadata__": {"a": 1}}),
    "containers not JSON": safetensors_bytes({"__metadata__": {"ciuic.containers": "{"}}),
    "containers nested without end": safetensors_bytes({"__metadata__": {"ciuic.containers": "[" * 100_000}}),
    "containers unknown": safetensors_bytes({"__metadata__": {"ciuic.containers": '{"": "os.system"}'}}),
    "containers without a root": safetensors_bytes({"__metadata__": {"ciuic.containers": '{"a": "dict"}'}}),
    "list with a gap": safetensors_bytes({"__metadata__": {"ciuic.containers": '{"": "list"}'}, "1": entry()}, b"1234"),
    "name with a million levels": safetensors_bytes(
        {"__metadata__": {"ciuic.containers": '{"": "dict"}'}, "/" * 1_000_000: entry()}, b"1234"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    file = tmp_path / "m.safetensors"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidImport, match=r"m\.safetensors"):
        read_file(str(file))


@given(st.data())
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    good = safetensors_bytes(
        {
            "__metadata__": {"b": "a", "ciuic.containers": '{"": "dict"}'},
            "a": entry(),
            "c": entry("U8", (2, 2), (4, 8)),
        },
        b"12345678",
    )
    position = data.draw(st.integers(0, len(good) - 1))
    replacement = data.draw(st.binary(max_size=4))
    file = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    file.write_bytes(good[:position] + replacement + good[position + data.draw(st.integers(0, 4)) :])
    with contextlib.suppress(InvalidImport):
        read_file(str(file))


def test_not_an_ordinary_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe.safetensors", "folder.safetensors", "missing.safetensors", "missing.pt", "a\0b.pt"):
        with pytest.raises(InvalidImport):
            read_file(str(tmp_path / name))


# Sharded models.


def write_sharded(folder, weight_map, **shards):
    for name, tensors in shards.items():
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}))
    return str(index)


def test_a_sharded_model_is_read_through_its_index(tmp_path):
    index = write_sharded(
        tmp_path,
        {"a": "one.safetensors", "c": "two.safetensors", "b": "one.safetensors"},
        one={"a": torch.ones(1), "b": torch.ones(2), "unlisted": torch.ones(9)},
        two={"c": torch.ones(3)},
    )
    state = read_file(index)[0]["model"]
    assert {name: tensor.numel() for name, tensor in state.items()} == {"a": 1, "c": 3, "b": 2}


def test_a_shard_in_a_folder_below_is_fine(tmp_path):
    (tmp_path / "shards").mkdir()
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "shards" / "one.safetensors")
    index = write_sharded(tmp_path, {"a": "shards/one.safetensors"})
    assert set(read_file(index)[0]["model"]) == {"a"}


@pytest.mark.parametrize(
    "shard",
    [
        "/etc/passwd",
        "../secret.safetensors",
        "a/../../secret.safetensors",
        "..",
        "link.safetensors",
        "out/secret.safetensors",
        "a\0b",
        "\ud800",
        "a" * 9000 + "/../../secret.safetensors",
    ],
)
def test_a_shard_outside_the_folder_is_unsafe(tmp_path, shard):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "out").symlink_to(tmp_path)
    with pytest.raises(UnsafePath, match="leads out of"):
        read_file(write_sharded(folder, {"a": shard}))


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "one.safetensors"}}',
        b"[" * 99_999,
    ],
)
def test_a_broken_index_is_refused(tmp_path, index):
    safetensors.torch.save_file({"b": torch.ones(1)}, tmp_path / "one.safetensors")
    file = tmp_path / "model.safetensors.index.json"
    file.write_bytes(index)
    with pytest.raises(InvalidImport, match=r"index\.json"):
        read_file(str(file))

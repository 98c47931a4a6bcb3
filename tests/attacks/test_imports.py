"""Files to import that a stranger has made: refused in our words, with nothing run, nothing read elsewhere, and no more
memory taken than the file is large."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stranger import Stranger, sparse
from world import Opens, World

from ciuic.errors import InvalidImport, UnsafePath

REFUSED = InvalidImport.exit_code
SCREAM = "\x1b]0;pwned\x07\x1b[2J\x9b31m\n"


@pytest.fixture
def imported(world: World, opened: Opens) -> Callable[[Path], int]:
    """The exit code of an import; a dry run ends in the same way."""
    Stranger(world.repository)

    def imported(file: Path) -> int:
        outcome = opened(file)
        codes = {outcome.code(what) for what in outcome.steps if what.startswith("import")}
        assert len(codes) == 1 and outcome.code("log") == 0
        return codes.pop()

    return imported


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "header, data",
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        ({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
        ({"a": entry(0, 8), "b": entry(9, 12)}, bytes(12)),
        ({"a": entry(0, 1 << 40)}, bytes(8)),
        ({"a": entry(8, 0, [0])}, bytes(8)),
        ({"a": entry(-8, 0, [8])}, bytes(8)),
        ({"a": entry(0, 8, [1 << 61], "F64")}, bytes(8)),
        ({"a": entry(0, 8, [1 << 32, 1 << 32, 0, 8])}, bytes(8)),
        ({"a": entry(0, 8, [-2, -4])}, bytes(8)),
        ({"a": entry(0, 8, [8.0])}, bytes(8)),  # type: ignore[list-item]
        ({"a": entry(0, 8, dtype="PICKLE")}, bytes(8)),
        ({"a": {**entry(0, 8), "code": "os.system"}}, bytes(8)),
        (b'{"a":%b,"a":%b}' % ((b'{"dtype":"U8","shape":[8],"data_offsets":[0,8]}',) * 2), bytes(8)),
        (b'{"a":' + b"[" * 100_000, b""),
        (b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
        (b'{"__metadata__":{"a":1}}', b""),
        (b'{"__metadata__":[]}x', b""),
        (b"[]", b""),
        (b"{\xff", b""),
        ({"a": entry(0, 8)}, bytes(9)),
    ],
    ids=range(20),
)  # fmt: skip
def test_safetensors_that_are_none(tmp_path: Path, imported: Callable[[Path], int], header: Any, data: bytes) -> None:
    """Offsets that overlap, leave holes, lead out of the file or go backwards; shapes that do not fit, overflow or are
    none; keys twice; nesting and numbers without end."""
    assert imported(safetensors(tmp_path / "x.safetensors", header, data)) == REFUSED


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, 100_000_001, 1 << 20])
def test_a_header_that_is_not_there(tmp_path: Path, imported: Callable[[Path], int], length: int) -> None:
    """Its length alone allocates nothing."""
    assert imported(safetensors(tmp_path / "x.safetensors", {"a": entry(0, 8)}, bytes(8), length)) == REFUSED


def test_a_file_of_a_terabyte(tmp_path: Path, imported: Callable[[Path], int]) -> None:
    """With nothing in it but a header that is right: there is no memory for it, and that is what is said."""
    path = safetensors(tmp_path / "x.safetensors", {"a": entry(0, (1 << 40) - 4096)})
    start = path.stat().st_size
    sparse(path, start + (1 << 40) - 4096)
    assert imported(path) == REFUSED


@pytest.mark.parametrize("what", ["fifo", "folder", "device"])
def test_what_is_no_file(tmp_path: Path, imported: Callable[[Path], int], what: str) -> None:
    """A pipe without a writer does not hang, and a device without an end is not read."""
    path = tmp_path / "x.safetensors"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert imported(path) in (REFUSED, 2)  # 2: the command line takes no folder


@pytest.mark.parametrize("shard", ["../outside/letter", "/etc/passwd", "a/../../b", "link", "..\\x", "a\0b"])
def test_parts_that_lie_elsewhere(
    tmp_path: Path, world: World, imported: Callable[[Path], int], shard: str
) -> None:
    """An index names files of its own folder; by a link, too."""
    folder = world.scratch / "model"
    folder.mkdir()
    (folder / "link").symlink_to(world.outside / "letter")
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    assert imported(index) == UnsafePath.exit_code


def test_names_that_scream(tmp_path: Path, world: World, opened: Opens) -> None:
    """Names of tensors, and containers in the metadata, come to the screen spelt out."""
    Stranger(world.repository)
    metadata = {"ciuic.containers": json.dumps({"": "dict", SCREAM: "dict"}), SCREAM: SCREAM}
    file = safetensors(tmp_path / "x.safetensors", {"__metadata__": metadata, f"{SCREAM}/a": entry(0, 8)}, bytes(8))
    outcome = opened(file)
    assert outcome.code("import " + str(file) + " --to extra") == 0
    bad = safetensors(tmp_path / f"y{SCREAM.replace(chr(10), '')}.safetensors", {SCREAM: entry(0, 9)}, bytes(8))
    opened(bad)


# Pickles


class Runs:
    """What a pickle may do to whoever loads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def torch_file(path: Path, pickled: bytes, *, compressed: bool = False, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3", **records}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def call(module: str, name: str, arguments: bytes) -> bytes:
    """A pickle that calls a function; ``arguments``: opcodes that leave a tuple."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


LONG_TUPLE = b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85"
"""(2**40,)"""


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps({"w": Runs(os.system, "touch pwned")}, 2),
        pickle.dumps(Runs(eval, "open('pwned', 'w')"), 4),
        pickle.dumps(Runs(exec, "import os"), 0),
        call("posix", "system", b"X\x05\x00\x00\x00touch\x85"),
        call("builtins", "bytearray", LONG_TUPLE),
        call("torch", "load", b"X\x01\x00\x00\x00x\x85"),
        call("torch._utils", "_rebuild_tensor_v2", b")"),
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x02X\xff\xff\xff\x7f",
        b"\x80\x02" + b"N" * 10,
        b"cos\nsystem\n(S'touch pwned'\ntR.",
        b"",
    ],
    ids=range(14),
)
def test_pickles_run_nothing(tmp_path: Path, world: World, imported: Callable[[Path], int], pickled: bytes) -> None:
    """Functions called, memory claimed, lists in themselves: refused, with the advice to save it plainly."""
    assert imported(torch_file(tmp_path / "x.pt", pickled)) == REFUSED
    assert not list(world.scratch.glob("pwned"))


def test_a_bare_pickle(tmp_path: Path, imported: Callable[[Path], int]) -> None:
    """Not even an archive, as torch wrote them long ago."""
    for name in ("x.pt", "y.bin", "z.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Runs(os.system, "touch pwned"), 2))
        assert imported(tmp_path / name) == REFUSED


def test_an_archive_that_unfolds(tmp_path: Path, imported: Callable[[Path], int]) -> None:
    """A gigabyte of zeros in a megabyte; and records that say they are larger than the file."""
    assert imported(torch_file(tmp_path / "x.pt", bytes(1 << 26), compressed=True)) == REFUSED
    file = torch_file(tmp_path / "y.pt", b"\x80\x02}.", data=bytes(100))
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = b"\xff\xff\xff\x7f" * 2
    file.write_bytes(data)
    assert imported(file) == REFUSED


def test_a_tensor_larger_than_its_file(tmp_path: Path, imported: Callable[[Path], int]) -> None:
    """One element, expanded with strides of zero to a terabyte."""
    import torch

    torch.save({"w": torch.zeros(1).expand(1 << 38)}, tmp_path / "x.pt")
    assert imported(tmp_path / "x.pt") == REFUSED
    memory = io.BytesIO()
    torch.save({"w": torch.zeros(8), "m": torch.empty(1 << 40, device="meta")}, memory)
    (tmp_path / "y.pt").write_bytes(memory.getvalue())
    assert imported(tmp_path / "y.pt") != 0

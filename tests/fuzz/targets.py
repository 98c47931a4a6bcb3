"""One function for each parser. Each lets its own typed errors pass and nothing else; checksums are put right first, so
that changes get past them. What comes out is held against what the parser promises.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import tempfile
import zipfile
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from ciuic.codec import Codec, CodecError, decode, decode_into, rules
from ciuic.commit.pipeline import Details
from ciuic.errors import (
    CiuicError,
    DamagedData,
    DamagedRef,
    InvalidConfig,
    InvalidImport,
    RepositoryError,
    RevisionError,
    UnsupportedState,
)
from ciuic.history.revisions import parse_age, parse_moment, resolve
from ciuic.interchange import regular_file, sharded_safetensors
from ciuic.interchange.component_trees import to_component
from ciuic.interchange.flat_names import unflatten
from ciuic.interchange.safetensors_header import read_header
from ciuic.interchange.ties import restore_tied_names
from ciuic.interchange.torch_file import read_torch
from ciuic.objects import encoding
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import decode_recipe, encode_recipe
from ciuic.objects.snapshot import decode_snapshot, encode_snapshot
from ciuic.objects.state_tree import Container, Tensor, Value, walk
from ciuic.objects.tree import decode_tree, encode_tree
from ciuic.store import config, network, pack_format, reflog, refs, resolving, verification
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.index import MARK, ROW
from ciuic.store.index import _checked as checked_row
from ciuic.store.pack import Pack
from ciuic.store.reflog import decode_log
from ciuic.store.salvage import SalvagedPack, salvage_log
from ciuic.store.store import Store
from ciuic.writer import wire
from ciuic.writer.channel import LENGTH, Channel

GOLDEN = Path(__file__).parent.parent / "format" / "golden"
RECORD_BODY = pack_format.RECORD.size
MOST_RAW = 1 << 12


class InMemory(FileSystem):
    """Every file has these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, path: str, *, write: bool = False) -> int:
        return 0

    def close(self, descriptor: int) -> None:
        pass

    def size(self, descriptor: int) -> int:
        return len(self.data)

    def read_at(self, descriptor: int, length: int, offset: int, path: str) -> bytes:
        return self.data[offset : offset + length]


# Packs


def sealed(header: bytes) -> bytes:
    """A record's header whose checksum holds."""
    body = header[:RECORD_BODY].ljust(RECORD_BODY, b"\0")
    return body + digest(body)[: pack_format.CHECK_LENGTH]


def record_header(data: bytes) -> None:
    with contextlib.suppress(DamagedData):
        header = pack_format.decode_record_header(sealed(data), "here")
        assert pack_format.encode_record_header(header) == sealed(data)
        assert header.stored_length <= pack_format.MOST_OBJECT_BYTES >= header.raw_length


def trailer(data: bytes) -> None:
    body = data[:56].ljust(56, b"\0")
    with contextlib.suppress(DamagedData):
        offset, length, _ = pack_format.decode_trailer(body + digest(body)[:8], 4096, "here")
        assert 0 <= offset <= offset + length <= 4096


def footer(data: bytes) -> None:
    data = data[:40].ljust(40, b"\0") + data[40:]
    with contextlib.suppress(DamagedData):
        end = 0
        for row in pack_format.decode_footer(data, data[16:32], 1 << 20, "here"):
            assert end <= row.offset <= row.end <= 1 << 20
            end = row.end


def sealed_pack(data: bytes) -> bytearray:
    """Everything that can be sealed is."""
    data = bytearray(data)
    offset, length = (int.from_bytes(data[start : start + 8], "little") for start in (len(data) - 56, len(data) - 48))
    rows = data[offset : offset + length] if offset < len(data) >= 64 and length <= len(data) else b""
    for at in range(40, len(rows) - 135, 136):
        start = int.from_bytes(rows[at + 128 : at + 136], "little")
        if start <= len(data) - 128:
            data[start : start + 128] = rows[at : at + 128] = sealed(bytes(rows[at : at + 128]))
    if rows:
        data[offset : offset + length] = rows
        data[-32 - 8 : -8] = digest(bytes(rows))
        data[-8:] = digest(bytes(data[-64:-8]))[:8]
    return data


def pack(data: bytes) -> None:
    data = sealed_pack(data)
    name = bytes(data[-40:-8]).hex()
    with contextlib.suppress(DamagedData):
        opened = Pack(InMemory(bytes(data)), "a.pack", name, bytes(data[16:32]))
        for row in opened.rows:
            with contextlib.suppress(DamagedData):
                raw = opened.raw(row.offset, row.header.stored_length, row.header.id)
                assert len(raw) == row.header.raw_length


def salvaged_pack(data: bytes) -> None:
    """Whatever is in the file: what is found is whole, inside of it, and comes once."""
    for file in (data, sealed_pack(data)):
        opened = SalvagedPack(InMemory(bytes(file)), "a.pack", "0" * 64, bytes(file[16:32]))
        opened.headless = set()
        ids = [row.header.id for row in opened.rows]
        assert len(ids) == len(set(ids))
        for row in opened.rows:
            header, stored = opened.stored(row.offset, row.header.stored_length)
            assert digest(stored) == header.stored_checksum and row.end <= len(file)


# Objects


_repeated: encoding.Repeated = {}


def cbor(data: bytes) -> None:
    """One encoding for each value; with what was repeated the same as without."""
    try:
        value = encoding.decode(data)
    except EncodingError:
        with contextlib.suppress(EncodingError):
            encoding.decode(data, _repeated)
            raise AssertionError("decoded only with what was there before") from None
        return
    assert encoding.encode(value) == data
    assert encoding.encode(encoding.decode(data, _repeated)) == data


def tree(data: bytes) -> None:
    with contextlib.suppress(EncodingError):
        assert encode_tree(decode_tree(data)) == data


def snapshot(data: bytes) -> None:
    with contextlib.suppress(EncodingError):
        found = decode_snapshot(data, NO_ID)
        again = decode_snapshot(encode_snapshot(found), NO_ID)
        assert encode_snapshot(again) == encode_snapshot(found)
        assert repr(found) and found.timestamp.isoformat() and str(found.step) and str(found.epoch)


def recipe(data: bytes) -> None:
    """The fast way to decode one says the same as the plain one; what it makes has the length that was asked for."""
    try:
        found = decode_recipe(data)
    except EncodingError:
        with contextlib.suppress(EncodingError):
            resolving._decode_recipe(data)
            raise AssertionError("only the fast way takes it") from None
        return
    assert encode_recipe(found) == data
    assert resolving._decode_recipe(data) == found
    bases = [bytes(range(64)) for _ in found.bases]
    for length in (0, 16, 64):
        with contextlib.suppress(CodecError):
            rules.apply(found.rule, found.numbers, bases, bytearray(length))


def codecs(data: bytes) -> None:
    """codec, width, raw length (2), stored bytes."""
    head, stored = data[:4].ljust(4, b"\0"), data[4:]
    codec, width, length = head[0] % 7, head[1], int.from_bytes(head[2:4], "little") % MOST_RAW
    out = bytearray(b"\xa5" * length)
    try:
        decode_into(codec, stored, out, width)
    except CodecError:
        if codec in (Codec.ZSTD, Codec.PLANES):
            with contextlib.suppress(CodecError):
                decode(codec, stored, length, width)
                raise AssertionError("decoded as a whole alone") from None
        return
    if codec in (Codec.RAW, Codec.ZSTD, Codec.PLANES):
        assert bytes(decode(codec, stored, length, width)) == out


# Logs and names


LOGS = ("HEAD", "prunes", "refs/heads/main", "refs/tags/v1")


def sealed_log(data: bytes) -> tuple[str, bytes]:
    """The first byte chooses the log; each slot's checksum is put right, but where its own first byte is odd."""
    name, rest = LOGS[data[0] % 4] if data else "HEAD", data[1:]
    slots = []
    for start in range(0, len(rest), reflog.SLOT):
        slot = rest[start : start + reflog.SLOT]
        body = slot[reflog.CHECKSUM_DIGITS :]
        if len(slot) == reflog.SLOT and not slot[0] % 2:
            checksum = blake3(name.encode() + b"\0" + body).hexdigest()[: reflog.CHECKSUM_DIGITS].encode()
            slot = checksum + body
        slots.append(slot)
    return name, b"".join(slots)


def log(data: bytes) -> None:
    name, sealed = sealed_log(data)
    with contextlib.suppress(DamagedRef):
        records = decode_log(name, sealed)
        for number, record in enumerate(records):
            assert record.sequence == records[0].sequence + number
            assert record.time.isoformat() and len(reflog.encode_record(name, record)) == reflog.SLOT


def salvaged_log(data: bytes) -> None:
    """What can be saved is a log, and what was sound stays as it was."""
    name, sealed = sealed_log(data)
    found = salvage_log(name, sealed)
    if found.records:
        again = decode_log(name, b"".join(reflog.encode_record(name, record) for record in found.records))
        assert [record.new for record in again] == [record.new for record in found.records]
    if not found.damaged:
        assert list(found.records) == decode_log(name, sealed)


def ref_name(data: bytes) -> None:
    """A name leads to one file in its own folder, and back."""
    name = data.decode("utf-8", "surrogateescape")
    if refs.is_name(name):
        file = refs.file_name(name)
        assert "/" not in file and "\0" not in file and file not in (".", "..") and not refs.is_stray(file)
    refs.is_stray(name.replace("/", ""))


def revision_in(store: Store) -> Callable[[bytes], None]:
    """Any text, on a repository."""

    def revision(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        with contextlib.suppress(RevisionError):
            resolve(store, text)
        parse_age(text)
        parse_moment(text)

    return revision


def index_row_in(store: Store) -> Callable[[bytes], None]:
    """A row of the index, its checksum right: kind of row, then its value. What is read is what was asked for."""
    snapshot = bytes.fromhex(store.refs.value("refs/heads/main") or "")

    def index_row(data: bytes) -> None:
        kind, value = data[:1] or b"O", data[1:]
        key = kind + snapshot
        with store.index.environment.begin(write=True) as transaction:
            before = transaction.get(key)
            transaction.put(key, checked_row(key, value))
        try:
            with contextlib.suppress(CiuicError):
                assert object_id(Kind.SNAPSHOT, store.read(Kind.SNAPSHOT, snapshot)) == snapshot
                assert store.index.log_marks() is not None and store.index.packs()
                store.header(snapshot)
        finally:
            with store.index.environment.begin(write=True) as transaction:
                transaction.delete(key)
                if before is not None:
                    transaction.put(key, before)

    return index_row


def verified(data: bytes) -> None:
    """The memory of when each pack was read."""
    body = data.partition(b"\n")[2]
    store = Remembering(InMemory(digest(body).hex().encode() + b"\n" + body))
    assert all(len(name) == 64 and at >= 0 for name, at in verification._remembered(store).items())  # type: ignore[arg-type]


class Remembering:
    """What verification needs of a store."""

    def __init__(self, fs: InMemory) -> None:
        self.fs = fs

    def join(self, *parts: str) -> str:
        return "/".join(parts)


def mounts(data: bytes) -> None:
    network.mount_of(data.decode("utf-8", "surrogateescape"), "/a/b")


# Files of text


def config_toml(data: bytes) -> None:
    with contextlib.suppress(InvalidConfig):
        found = config.read_config(InMemory(data), "config.toml")
        assert all(low <= getattr(found, name) <= high for name, (low, high) in config.LIMITS.items())
        assert all(isinstance(getattr(found, name), dict) for name in config.TABLES)


def format_file(data: bytes) -> None:
    with contextlib.suppress(RepositoryError, CiuicError):
        found = config.read_format(InMemory(data), "repo")
        assert len(found.repository_id) == 16 and found.features <= config.KNOWN_FEATURES


def safetensors_header(data: bytes) -> None:
    """The length is put right in front; names and metadata go on to the containers that they say."""
    data = len(data).to_bytes(8, "little") + data + bytes(64)
    for size in (len(data), len(data) - 64):
        with contextlib.suppress(InvalidImport):
            header = read_header(io.BytesIO(data), size, "file")
            assert all(0 <= entry.start <= entry.stop <= 64 for entry in header.tensors.values())
            named = restore_tied_names(dict.fromkeys(header.tensors, 0), header.metadata)
            unflatten(named, header.metadata, "file")


def weight_map(data: bytes) -> None:
    """The index of a model in several files; no name leads out of the folder."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors.index.json") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(InvalidImport):
            for shard in sharded_safetensors._read_weight_map(file.name).values():
                assert regular_file.path_inside("/nowhere", shard).startswith("/nowhere")


def torch_file(data: bytes) -> None:
    """A pickle of one's choice in a sound archive, read as torch.load reads it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3"), ("data/0", bytes(64))):
            file.writestr(f"archive/{name}", content)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(archive.getvalue())
        file.flush()
        with contextlib.suppress(InvalidImport):
            state = read_torch(file.name)
            with contextlib.suppress(InvalidImport, UnsupportedState):
                to_component("extra", state, "file")


# The writer's messages


def order(data: bytes) -> None:
    """What the trainer sends along with a slot."""
    slot = memoryview(bytes(1024))
    with contextlib.suppress(EncodingError):
        _, _, components = wire.decode_order(data, slot, lambda: None)
        for component in components.values():
            for _, leaf in walk(component):
                if isinstance(leaf, Tensor):
                    leaf.source.read(0, leaf.source.nbytes)


def channel(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    receiving = Channel(ours)
    try:
        theirs.send(data)
        theirs.close()
        for message, descriptors in receiving.receive():
            assert isinstance(message, dict) and not descriptors
        assert receiving.ended
    finally:
        receiving.close()


# What they start from: what was written once, and what the format allows


def _pickles() -> list[bytes]:
    """As torch.save writes them."""
    import torch

    found = []
    for state in ({"w": torch.zeros(16), "n": [1, 2.5, "a", None, (True, b"b")]}, torch.zeros(4, 4).T):
        file = io.BytesIO()
        torch.save(state, file)
        with zipfile.ZipFile(file) as archive:
            found.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    return found


class Placed:
    def __init__(self, offset: int, nbytes: int) -> None:
        self.offset, self.nbytes = offset, nbytes


def seeds() -> dict[str, list[bytes]]:
    """By the names of TARGETS."""
    found: dict[str, list[bytes]] = {name: [] for name in NAMES}
    identity = bytes.fromhex((GOLDEN / "repository" / "format").read_text().split()[3])
    for path in sorted((GOLDEN / "repository" / "packs").iterdir()):
        data = path.read_bytes()
        found["trailer"].append(data[-64:])
        start, length = (int.from_bytes(data[at : at + 8], "little") for at in (len(data) - 56, len(data) - 48))
        found["footer"].append(data[start : start + length][: 40 + 4 * 136])
        opened = Pack(LOCAL, str(path), path.stem, identity)
        for row in opened.rows:
            found["record_header"].append(pack_format.encode_record_header(row.header))
            kind = {Kind.TREE: "tree", Kind.SNAPSHOT: "snapshot", Kind.RECIPE: "recipe"}.get(row.header.kind)
            if kind is not None:
                found[kind].append(bytes(opened.raw(row.offset, row.header.stored_length, row.header.id)))
    for name in ("record_header", "tree", "recipe", "snapshot"):
        found[name] = sorted(set(found[name]), key=len)[:12]
    found["cbor"] = [*found["tree"][:4], *found["snapshot"][:2], *found["recipe"][:4], *map(encoding.encode, VALUES)]
    found["pack"] = [_small_pack(), _small_pack(trees=found["tree"][:2])]
    for line in (GOLDEN / "codecs.jsonl").read_text().splitlines():
        case = json.loads(line)
        stored, raw = (b64decode(case[name]) for name in ("stored", "raw"))
        found["codecs"].append(bytes((case["codec"], case["width"])) + len(raw).to_bytes(2, "little") + stored)
    records = [
        reflog.LogRecord(number, 10**18 + number, "-" if not number else "a" * 64, "a" * 64, "me@here:1", "commit: ü")
        for number in range(3)
    ]
    for number, name in enumerate(LOGS):
        found["log"].append(bytes([number]) + b"".join(reflog.encode_record(name, record) for record in records))
    found["log"].append(found["log"][0] + bytes(512))
    symbolic = reflog.LogRecord(0, 1, "-", "ref:refs/heads/main", "", "")
    found["log"].append(b"\0" + reflog.encode_record("HEAD", symbolic))
    found["salvaged_log"] = found["log"]
    found["salvaged_pack"] = found["pack"]
    found["index_row"] = [b"O" + ROW.pack(bytes(32), 64, 500, 0), b"L" + MARK.pack(3, bytes(16)), b"P"]
    found["verified"] = [b"\n" + b"a" * 64 + b" 1700000000\n" + b"b" * 64 + b" 0\n"]
    found["mounts"] = [b"36 35 98:0 / /a rw - ext4 /dev/sda1 rw\n37 36 0:5 / /a/b\\040c rw - nfs4 host:/x rw\n"]
    found["weight_map"] = [json.dumps(index).encode() for index in INDEXES]
    found["torch_file"] = _pickles()
    found["ref_name"] = [b"main", "läufe/a+b".encode(), b"a/b/c.d", b"v1.0-rc@2", b"%2e%2e", b"..", b"a" * 101]
    found["revision"] = [text.encode() for text in REVISIONS]
    found["config_toml"] = [
        config.encode_config(config.Config()), b'chunk_size = 0x1000\n[a]\nb = [1, {c = "d"}]\n',
        b"[triggers]\na = 1\n",
    ]  # fmt: skip
    found["format_file"] = [config.encode_format(config.Format(b"i" * 16, features)) for features in FEATURES]
    found["safetensors_header"] = [json.dumps(header).encode() for header in HEADERS]
    found["order"] = [wire.encode_order(*each) for each in ORDERS]
    messages = [encoding.encode(message) for message in ({}, {"job": 1, "size": 2**40}, {"log": 30, "text": "a"})]
    found["channel"] = [LENGTH.pack(len(body)) + body for body in messages]
    found["channel"].append(b"".join(found["channel"]))
    assert all(found.values()), "every target starts from something that is right"
    return found


def golden_repository(path: Path) -> str:
    """A copy at ``path``, whole: version control keeps no empty folder."""
    shutil.copytree(GOLDEN / "repository", path)
    for folder in ("index", "tmp", "trash", "quarantine", "refs/tags"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    return str(path)


def _small_pack(trees: list[bytes] | None = None) -> bytes:
    """As PackWriter makes one."""

    class Collecting(FileSystem):
        written = b""

        def create(self, path: str) -> int:
            return 0

        def close(self, descriptor: int) -> None:
            pass

        def write(self, descriptor: int, buffers: list[Any], path: str) -> int:
            self.written += b"".join(map(bytes, buffers))
            return len(self.written)

        def sync(self, descriptor: int, path: str) -> None:
            pass

    from ciuic.codec import zstd
    from ciuic.objects.ids import object_id
    from ciuic.store.pack import PackWriter

    fs = Collecting()
    writer = PackWriter(fs, "a", b"i" * 16)
    raws = [(Kind.TREE, raw) for raw in trees] if trees else [(Kind.CHUNK, b"abcd" * 20), (Kind.CHUNK, bytes(300))]
    for number, (kind, raw) in enumerate(raws):
        stored = zstd.compress(memoryview(raw)) if number % 2 else raw
        header = pack_format.RecordHeader(
            kind, number % 2, 4, 0, len(stored), len(raw), object_id(kind, raw), NO_ID, digest(stored)
        )
        writer.append(header, stored)
    writer.finish()
    return fs.written


FEATURES = (frozenset(), frozenset({"deltas"}))
VALUES: list[Any] = [
    [0, 23, 24, 255, 256, 65536, 2**32, 2**64, -1, -(2**70), 1.5, float("nan"), None, True, False, "ü", b"\0"],
    {"a": {"b": [{}, []]}, "bb": encoding.Tagged("tuple", (1, "a"))},
    [[[[[[[[]]]]]]]],
]
REVISIONS = (
    "main", "HEAD~2^1", "main@{1}", "main@{2 hours ago}", "@{yesterday}", "step:499", "step:<=500", "best:loss",
    "best:-accuracy", "main@step:499", "HEAD:model/layers.0.weight", "3fa91c", "main@{2026-01-31 12:00}",
    "refs/heads/main",
)  # fmt: skip
HEADERS: list[dict[str, Any]] = [
    {"w": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}},
    {
        "__metadata__": {"format": "pt", "c": "a/0", "ciuic.containers": '{"": "dict", "a": "list"}'},
        "a/0": {"dtype": "BF16", "shape": [16], "data_offsets": [0, 32]},
        "b": {"dtype": "U8", "shape": [4, 8], "data_offsets": [32, 64]},
    },
]
INDEXES: list[Any] = [
    {"metadata": {"total_size": 64}, "weight_map": {"w": "model-00001-of-00002.safetensors", "b": "b.safetensors"}},
    {"weight_map": {"w": "../x.safetensors", "v": "/etc/passwd", "u": "a/../../b"}},
]
QUANTIZER = {"scheme": "a", "scale": 1.0, "zero_point": 0}
ORDERS: list[Any] = [
    (
        Details(step=3, message="m", metrics={"loss": 0.5}, config={"lr": [1e-3]}, contains=("model",)),
        "commit",
        {
            "model": Container(
                "module",
                (
                    ("w", Tensor("float32", (4, 4), Placed(0, 64))),
                    ("t", Tensor("float32", (4, 4), Placed(0, 64), tie=("w",))),
                    ("q", Tensor("qint8", (8,), Placed(64, 8), quantizer=QUANTIZER)),
                ),
            ),
            "extra": Container("dict", ((3, Value({"a": (1, b"b")})), ("l", Container("list", ())))),
        },
    ),
]  # fmt: skip

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        record_header, trailer, footer, pack, salvaged_pack, cbor, tree, snapshot, recipe, codecs, log, salvaged_log,
        ref_name, verified, mounts, config_toml, format_file, safetensors_header, weight_map, torch_file,
        order, channel,
    )
}  # fmt: skip
NEED_A_STORE = {"revision": revision_in, "index_row": index_row_in}
NAMES = (*TARGETS, *NEED_A_STORE)



def prepared(name: str, store: Store) -> Callable[[bytes], None]:
    """The target of a name; ``store`` is under its shared lock."""
    return NEED_A_STORE[name](store) if name in NEED_A_STORE else TARGETS[name]

"""A reader of repositories written from docs/format.md alone: it imports nothing of ciuic."""

import math
import struct
from pathlib import Path
from urllib.parse import quote

import numpy as np
import zstandard
from blake3 import blake3

CONTEXTS = {2: "ciuic 1 tree", 3: "ciuic 1 snapshot", 4: "ciuic 1 recipe"}
RAW, ZSTD, PLANES, DELTA, DERIVED, PREDICTED = range(6)


def in_pairs(items):
    return dict(zip(items[::2], items[1::2], strict=True))


def decode(data):
    """The value of CBOR bytes, tag 27 as the Python value that it stands for."""

    def item(at):
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        if major == 7:
            if info == 27:
                return struct.unpack_from(">d", data, at)[0], at + 8
            return {20: False, 21: True, 22: None}[info], at
        width = 1 << (info - 24) if info > 23 else 0
        number = int.from_bytes(data[at : at + width], "big") if width else info
        at += width
        if major < 2:
            return (number if major == 0 else -1 - number), at
        if major < 4:
            piece = data[at : at + number]
            return (bytes(piece) if major == 2 else piece.decode()), at + number
        values = []
        for _ in range({4: number, 5: 2 * number, 6: 1}[major]):
            value, at = item(at)
            values.append(value)
        if major == 4:
            return values, at
        if major == 5:
            return in_pairs(values), at
        if number == 27:
            name, *arguments = values[0]
            made = {"tuple": tuple, "complex": lambda parts: complex(*parts)}.get(name, in_pairs)
            return made(arguments), at
        magnitude = int.from_bytes(values[0], "big")
        return (magnitude if number == 2 else -1 - magnitude), at

    value, end = item(0)
    assert end == len(data)
    return value


def decompress(frame, length):
    assert zstandard.frame_content_size(frame) == length
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=length)


def integers(method, stream, size, count):
    """What a group's stream gives: an array of ``count`` integers."""
    kind = f"<u{size}"
    if method == 3:
        bits, coded, length, many, centre = struct.unpack_from("<BB2xII4xQ", stream)
        codes, code = stream[24 : 24 + length], np.zeros(count, np.uint64)
        if bits == 0:
            _, gaps, _ = elements(codes, many, 4)
            rest = np.cumsum(gaps, dtype=np.int64) + np.arange(many)
        else:
            if coded:
                codes = decompress(codes, -(-count * bits // 8))
            bit = np.unpackbits(np.frombuffer(codes, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
            code = (bit @ [1, 2, 4, 8][:bits]).astype(np.uint64)
            rest = code == 2**bits - 1
        made = (code + np.uint64(centre)).astype(kind)
        _, made[rest], tail = elements(stream[24 + length :], many, size)
        assert not tail
        return made
    if method == 1:
        stream = decompress(stream, count * size)
    return np.frombuffer(stream if method != 2 else stream * count, kind)


def elements(stored, count, width):
    """(transform, transformed elements, tail) of stored planes."""
    transform, groups = stored[0], stored[1]
    at, made = 8 + 8 * groups, np.zeros(count, f"<u{width}")
    for first, size, method, length in struct.iter_unpack("<BBBxI", stored[8:at]):
        made |= integers(method, stored[at : at + length], size, count).astype(made.dtype) << 8 * first
        at += length
    return transform, made, stored[at:]


def planes(stored, length, width, base=None):
    """The raw bytes of stored planes; ``base``: what the differences are to."""
    width = min(width, 8)
    transform, t, tail = elements(stored, length // width, width)
    assert transform in (2, 3, 4, 5) if base is not None else transform in (0, 1)
    factor = np.frombuffer(stored, np.float32, 1, offset=4)
    one = np.array(1, t.dtype)
    if transform == 1:
        t = t >> one | t << one * (8 * width - 1)
    elif transform == 2:
        t = np.frombuffer(base, t.dtype, len(t)) + np.where(t & one, ~(t >> one), t >> one)
    elif transform == 3:
        t = np.frombuffer(base, t.dtype, len(t)) + t
    elif transform == 5:
        t = np.frombuffer(base, t.dtype, len(t)) + t - np.frombuffer(b"\x80" * width, t.dtype)
    elif transform == 4:
        with np.errstate(all="ignore"):
            faded = np.frombuffer(base, np.float32, len(t)) * factor
        t = np.where(np.isnan(faded), np.uint32(0x7FC00000), faded.view(np.uint32)) + t
    assert len(tail) == length % width
    return t.tobytes() + tail


def cast(numbers, bases, length):
    types = {"float64": (np.float64, np.uint64), "float32": (np.float32, np.uint32), "float16": (np.float16, np.uint16)}
    floats, integers = types[numbers["from"]]
    source = np.frombuffer(b"".join(bases), floats, offset=numbers["skip"])
    if numbers["to"] == "bfloat16":
        x = source.view(np.uint32)[: length // 2].astype(np.uint64)
        made = ((x + 0x7FFF + (x >> 16 & 1)) >> 16).astype(np.uint16)
        made[np.isnan(source[: len(made)])] = 0xFFFF
        return made.tobytes()
    narrow, bits = types[numbers["to"]]
    source = source[: length // narrow().itemsize]
    made = source.astype(narrow).view(bits)
    x, nan = source.view(integers), np.isnan(source)
    if numbers["to"] == "float16":
        made[nan] = (x >> 16 & 0x8000 | 0x7E00 | x >> 13 & 0x3FF)[nan]
    else:
        made[nan] = (x >> 32 & 0x80000000 | 0x7FC00000 | x >> 29 & 0x7FFFFF)[nan]
    return made.tobytes()


def second_moment(numbers, v0, m0, m1):
    single, double = np.float32, np.float64
    before = m0.astype(double)
    g = (before + (m1.astype(double) - before) * double(numbers["gain"])).astype(single)
    p, q = v0 * single(numbers["keep"]), g * single(numbers["take"])
    return (q.astype(double) * g.astype(double) + p.astype(double)).astype(single)


def weight(numbers, w0, m1, v1):
    decay, rate, root, eps = (np.float32(numbers[name]) for name in ("decay", "rate", "root", "eps"))
    return w0 * decay + (m1 * rate) / (np.sqrt(v1) / root + eps)


def follow(recipe, bases, length):
    """What a recipe makes of its bases."""
    with np.errstate(all="ignore"):
        if recipe["rule"] == "cast":
            return cast(recipe["numbers"], bases, length)
        rule = {"adamw.second_moment": second_moment, "adamw.weight": weight}[recipe["rule"]]
        made = rule(recipe["numbers"], *(np.frombuffer(base, np.float32) for base in bases))
        made[np.isnan(made)] = np.array(0x7FC00000, np.uint32).view(np.float32)
    return made.tobytes()


class Reader:
    def __init__(self, root):
        self.root = root
        lines = Path(root, "format").read_text().splitlines()
        assert lines[0] == "ciuic 1" and lines[2].split()[0] == "features" and lines[2].split()[1:] in ([], ["deltas"])
        self.places, self.read = {}, {}
        for path in Path(root, "packs").iterdir():
            self.read_footer(path.read_bytes(), path, bytes.fromhex(path.stem), bytes.fromhex(lines[1][3:]))

    def read_footer(self, data, path, name, repository):
        magic, offset, length, digest = struct.unpack_from("<8sQQ32s", data, len(data) - 64)
        footer = data[offset : offset + length]
        assert magic == b"ciuicend" and offset + length + 64 == len(data) and blake3(footer).digest() == digest == name
        magic, _, _, owner, count = struct.unpack_from("<8sII16sQ", footer)
        assert magic == b"ciuicftr" and owner == repository
        for row in range(40, 40 + 136 * count, 136):
            place = (path, *struct.unpack_from("<Q", footer, row + 128), footer[row + 7])
            self.places.setdefault(footer[row + 24 : row + 56], []).append(place)

    def object(self, id, above=256):
        """The raw bytes of an object, from a copy of a smaller depth than ``above``."""
        if id not in self.read:
            path, offset, _ = min((place for place in self.places[id] if place[2] < above), key=lambda place: place[2])
            self.read[id] = self.record(path.read_bytes()[offset:], id)
        return self.read[id]

    def record(self, data, id):
        header, (length, raw_length) = data[:128], struct.unpack_from("<QQ", data, 8)
        stored = data[128 : 128 + length]
        assert blake3(stored).digest() == header[88:120] and blake3(header[:120]).digest()[:8] == header[120:]
        kind, codec, width, depth, base = *header[4:8], header[56:88]
        if codec in (DELTA, DERIVED, PREDICTED):
            if codec == DELTA:
                made = self.object(base, depth)
            else:
                recipe = decode(self.object(base))
                bases = [recipe["bases"][start : start + 32] for start in range(0, len(recipe["bases"]), 32)]
                made = follow(recipe, [self.object(each, depth) for each in bases], raw_length)
            raw = made if codec == DERIVED else planes(stored, raw_length, width, made)
        else:
            assert depth == 0 and not any(base)
            plain = {
                RAW: lambda: stored,
                ZSTD: lambda: decompress(stored, raw_length),
                PLANES: lambda: planes(stored, raw_length, width),
            }
            raw = plain[codec]()
        hashed = blake3(raw, derive_key_context=CONTEXTS[kind]) if kind in CONTEXTS else blake3(raw)
        assert hashed.digest() == id and len(raw) == raw_length
        return raw

    def tip(self, branch):
        data = Path(self.root, "refs/heads", quote(branch, safe="@+=,")).read_bytes()
        for slot in (data[start : start + 512] for start in range(0, len(data), 512)):
            if len(slot) == 512 and not slot.startswith(bytes(16)) and not slot.endswith(bytes(16)):
                name = f"refs/heads/{branch}".encode()
                assert blake3(name + b"\0" + slot[32:]).hexdigest()[:32].encode() == slot[:32]
                value = slot.decode().split("\t")[4]
        return bytes.fromhex(value)

    def history(self, branch):
        """Every snapshot of a branch, newest first, as maps."""
        id = self.tip(branch)
        while id:
            snapshot = decode(self.object(id))
            yield snapshot
            id = snapshot["parents"][0] if snapshot["parents"] else None

    def tree(self, id, prefix=""):
        """(key, leaf) pairs, or deeper dicts of them; a tensor is (dtype, shape, bytes)."""
        tree = decode(self.object(id))
        found = {f"{prefix}{key}" if prefix else key: self.entry(entry) for key, entry in tree["entries"]}
        for name, child in tree.get("modules", ()):
            found.update(self.tree(child, f"{prefix}{name}."))
        return found[0] if tree["kind"] == "leaf" else found

    def entry(self, entry):
        ((what, value),) = entry.items()
        if what == "tree":
            return self.tree(value)
        if what == "value":
            return value
        chunks = [value["chunks"][start : start + 32] for start in range(0, len(value["chunks"]), 32)]
        data = b"".join(map(self.object, chunks))
        if what == "blob":
            return decode(data)
        assert math.prod(value["shape"]) == 0 or len(data) % math.prod(value["shape"]) == 0
        return value["dtype"], tuple(value["shape"]), data

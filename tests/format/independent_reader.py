"""A reader of repositories written from docs/format.md alone: it imports nothing of ciuic."""

import math
import struct
from pathlib import Path
from urllib.parse import quote

import zstandard
from blake3 import blake3

CONTEXTS = {2: "ciuic 1 tree", 3: "ciuic 1 snapshot"}


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


class Reader:
    def __init__(self, root):
        self.root = root
        lines = Path(root, "format").read_text().splitlines()
        assert lines[0] == "ciuic 1" and lines[2].split() == ["features"]
        self.places = {}
        for path in Path(root, "packs").iterdir():
            self.read_footer(path.read_bytes(), path, bytes.fromhex(path.stem), bytes.fromhex(lines[1][3:]))

    def read_footer(self, data, path, name, repository):
        magic, offset, length, digest = struct.unpack_from("<8sQQ32s", data, len(data) - 64)
        footer = data[offset : offset + length]
        assert magic == b"ciuicend" and offset + length + 64 == len(data) and blake3(footer).digest() == digest == name
        magic, _, _, owner, count = struct.unpack_from("<8sII16sQ", footer)
        assert magic == b"ciuicftr" and owner == repository
        for row in range(40, 40 + 136 * count, 136):
            self.places[footer[row + 24 : row + 56]] = (path, *struct.unpack_from("<Q", footer, row + 128))

    def object(self, id):
        path, offset = self.places[id]
        data = path.read_bytes()[offset:]
        header, stored = data[:128], data[128 : 128 + struct.unpack_from("<Q", data, 8)[0]]
        assert blake3(stored).digest() == header[88:120] and blake3(header[:120]).digest()[:8] == header[120:]
        raw = zstandard.ZstdDecompressor().decompress(stored) if header[5] == 1 else stored
        hashed = blake3(raw, derive_key_context=CONTEXTS[header[4]]) if header[4] in CONTEXTS else blake3(raw)
        assert hashed.digest() == id
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

"""Makes what tests/format/golden holds. Run it only to add to it: what is there decodes to the same bytes for ever.

    python tests/format/make_golden.py codecs > tests/format/golden/codecs.jsonl
    python tests/format/make_golden.py rules > tests/format/golden/rules.jsonl

Stored planes are put together here from docs/format.md, with Python's integers, in every form that the page allows.
Beside them stands what ciuic's own encoder made of tensors.
"""

import base64
import json
import random
import struct
import sys
from pathlib import Path

import torch
import zstandard

sys.path.insert(0, str(Path(__file__).parent.parent / "codec"))
import scalar_rules

from ciuic.codec import Codec, encode, encode_residual, rules
from ciuic.codec.adamw import numbers

RAW, ZSTD, CONSTANT = range(3)
GROUPINGS = {
    1: [[(1, RAW)], [(1, ZSTD)], [(1, CONSTANT)]],
    2: [[(1, ZSTD), (1, RAW)], [(2, RAW)], [(2, ZSTD)], [(1, RAW), (1, CONSTANT)], [(2, CONSTANT)]],
    4: [[(1, ZSTD)] * 4, [(2, RAW), (1, RAW), (1, ZSTD)], [(1, ZSTD), (1, RAW), (2, CONSTANT)], [(4, RAW)],
        [(2, ZSTD), (2, ZSTD)], [(4, CONSTANT)]],
    8: [[(1, ZSTD)] * 8, [(4, RAW), (2, RAW), (1, RAW), (1, ZSTD)], [(2, ZSTD), (2, RAW), (4, CONSTANT)], [(8, RAW)],
        [(8, CONSTANT)], [(8, ZSTD)]],
}  # fmt: skip
EDGES = [
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x3F800000, 0xBF800000),
    *(0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFABCDEF, 0x1F800000),
    *(0x33000000, 0x33000001, 0x387FC000, 0x387FE000, 0x38800000, 0x477FEFFF, 0x477FF000, 0x3F808000, 0x3F818000),
]
STEPS = {
    "AdamW": numbers({"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}, 17.0, True),
    "Adam": numbers({"lr": 2e-5, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}, 1.0, False),
    "long": numbers({"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}, 250_000.0, True),
}


def line(**case):
    print(json.dumps({key: text(value) for key, value in case.items()}))


def text(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    return [text(each) for each in value] if isinstance(value, list) else value


def packed(chance, width, transform, groups, tail):
    """(stored, raw, base): elements and tail from ``chance``."""
    count, bits = 37, 8 * width
    streams, values, place = [], [0] * count, 0
    for size, method in groups:
        integers = [chance.choice([0, 1, 2, chance.getrandbits(8 * size)]) % 2 ** (8 * size) for _ in range(count)]
        if method == CONSTANT:
            integers = [chance.getrandbits(8 * size)] * count
        data = b"".join(each.to_bytes(size, "little") for each in integers)
        whole = {RAW: data, ZSTD: zstandard.ZstdCompressor(level=3).compress(data), CONSTANT: data[:size]}[method]
        streams.append((size, method, whole))
        values = [value | each << 8 * place for value, each in zip(values, integers, strict=True)]
        place += size
    base = [chance.getrandbits(bits) for _ in range(count)]
    back = {
        0: lambda t, b: t,
        1: lambda t, b: t >> 1 | (t & 1) << bits - 1,
        2: lambda t, b: (b + (-(t + 1) // 2 if t & 1 else t // 2)) % 2**bits,
    }[transform]
    raw = [back(t, b) for t, b in zip(values, base, strict=True)]
    head = bytes([transform, len(groups)]) + b"".join(struct.pack("<BBI", s, m, len(d)) for s, m, d in streams)
    stored = head + bytes(-len(head) % 16) + b"".join(data for _, _, data in streams) + tail
    joined = [b"".join(each.to_bytes(width, "little") for each in numbers) for numbers in (raw, base)]
    return stored, joined[0] + tail, joined[1] + b"\xee" * len(tail)


def forms():
    """Planes of every width, transform, size and method, with and without a tail."""
    chance = random.Random(4)
    for width, groupings in GROUPINGS.items():
        for transform in (0, 1, 2):
            for number, groups in enumerate(groupings):
                stored, raw, base = packed(chance, width, transform, groups, bytes(range(1, width))[: number % 2 * 8])
                name = f"width {width}, transform {transform}, groups {groups}"
                codec = Codec.PLANES if transform < 2 else (Codec.DELTA, Codec.PREDICTED)[number % 2]
                line(name=name, codec=codec, width=width, stored=stored, raw=raw, base=base if transform == 2 else b"")


def tensors():
    """(name, width, raw, base): each class of dtype, with what floats have at their edges."""
    torch.manual_seed(4)
    edges = torch.tensor(EDGES, dtype=torch.int64).to(torch.int32).view(torch.float32)
    floats = torch.cat([torch.randn(230) * 0.02, edges])
    later = torch.cat([floats[:230] * (1 + torch.randn(230) * 1e-3), edges.flip(0)])
    for dtype in (torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex128):
        one, two = (each.to(dtype) for each in (later, floats))
        yield str(dtype), dtype.itemsize, as_bytes(one), as_bytes(two)
    yield "bool", 1, as_bytes(torch.rand(600) < 0.1), as_bytes(torch.rand(600) < 0.1)
    counts = torch.randint(-1000, 50_000, (200,))
    yield "int64", 8, as_bytes(counts + torch.randint(0, 3, (200,))), as_bytes(counts)
    yield "float32, equal", 4, as_bytes(torch.full((100,), -0.0)), as_bytes(torch.full((100,), 0.0))


def as_bytes(tensor):
    return bytes(tensor.contiguous().view(torch.uint8).numpy())


def encoded():
    """What ciuic's encoder makes of tensors."""
    for name, width, raw, base in tensors():
        for encoded in (
            encode(raw, width, worth_it=1.0),
            encode(raw, width, base),
            encode_residual(raw, base, width),
        ):
            needs = encoded.codec in (Codec.DELTA, Codec.PREDICTED)
            line(
                name=f"{name}, {encoded.codec.name}", codec=encoded.codec, width=width, stored=encoded.stored, raw=raw,
                base=base if needs else b"",
            )  # fmt: skip
    for codec, raw in ((Codec.RAW, b""), (Codec.RAW, b"\x01\x02\x03"), (Codec.ZSTD, bytes(3000))):
        stored = raw if codec == Codec.RAW else zstandard.ZstdCompressor().compress(raw)
        line(name=f"{len(raw)} bytes, {codec.name}", codec=codec, width=1, stored=stored, raw=raw, base=b"")


def recipes():
    """Rules on usual numbers and on floats at their edges, against each other."""
    chance = random.Random(4)
    words = [[chance.choice(EDGES) for _ in range(150)] for _ in range(3)]
    for place, scale in enumerate((0.02, 1e-3, 1e-6)):
        usual = (chance.gauss(0, scale) for _ in range(150))
        words[place] += [struct.unpack("<I", struct.pack("<f", abs(x) if place == 2 else x))[0] for x in usual]
    bases = [struct.pack("<300I", *each) for each in words]
    for name, step in STEPS.items():
        for rule, names in (("adamw.second_moment", ["gain", "keep", "take"]),
                            ("adamw.weight", ["decay", "rate", "root", "eps"])):  # fmt: skip
            own = bases if rule == "adamw.weight" else [bases[2], bases[1], bases[0]]
            used = {name: step[name] for name in names}
            line(name=f"{rule}, {name}", rule=rule, numbers=used, bases=own, raw=scalar_rules.apply(rule, used, own))
    wide = struct.pack("<300d", *(chance.gauss(0, 1) * 10.0 ** chance.randrange(-50, 45) for _ in range(300)))
    wide += struct.pack("<4Q", 0x7FF8000000000000, 0xFFF0000000000001, 0x7FFFFFFFFFFFFFFF, 0xFFF5555555555555)
    for source, target, base in (
        ("float32", "bfloat16", bases[0]), ("float32", "float16", bases[0]), ("float64", "float32", wide)
    ):  # fmt: skip
        for skip, parts in ((0, [base]), (16, [base[:400], base[400:]])):
            out = bytearray((len(base) - skip) // 2)
            used = {"from": source, "to": target, "skip": skip}
            rules.apply("cast", used, parts, out)
            line(name=f"cast to {target}, skip {skip}", rule="cast", numbers=used, bases=parts, raw=out)


if __name__ == "__main__":
    if sys.argv[1:] == ["codecs"]:
        forms()
        encoded()
    elif sys.argv[1:] == ["rules"]:
        recipes()
    else:
        sys.exit(__doc__)

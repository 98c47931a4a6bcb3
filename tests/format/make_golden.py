"""Makes what tests/format/golden holds. Run it only to add to it: what is there decodes to the same bytes for ever.

    python tests/format/make_golden.py codecs > tests/format/golden/codecs.jsonl
    python tests/format/make_golden.py rules > tests/format/golden/rules.jsonl
    python tests/format/make_golden.py differences > tests/format/golden/differences.jsonl
    python tests/format/make_golden.py dtypes > tests/format/golden/dtypes.jsonl
    python tests/format/make_golden.py repository tests/format/golden/repository
    python tests/format/make_golden.py branches tests/format/golden/branches

The first, the second and the fifth were made before there were transforms 3 to 5: made anew they would be others.

Stored planes are put together here from docs/format.md, with Python's integers, in every form that the page allows.
Beside them stands what ciuic's own encoder made of tensors.
"""

import base64
import itertools
import json
import random
import re
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import torch
import zstandard
from blake3 import blake3

sys.path.insert(0, str(Path(__file__).parent.parent / "codec"))
import scalar_rules
from contents import CONTENTS, elements

import ciuic
from ciuic.codec import Codec, encode, encode_residual, rules
from ciuic.codec.adamw import numbers
from ciuic.objects.dtypes import DTYPE_WIDTHS
from ciuic.store.reflog import decode_record, encode_record

RAW, ZSTD, CONSTANT, SPLIT = range(4)
GROUPINGS = {
    1: [[(0, 1, RAW)], [(0, 1, ZSTD)], [(0, 1, CONSTANT)], [(0, 1, SPLIT)]],
    2: [[(0, 1, ZSTD), (1, 1, RAW)], [(0, 2, RAW)], [(0, 2, ZSTD)], [(1, 1, SPLIT), (0, 1, CONSTANT)],
        [(0, 2, CONSTANT)], [(0, 2, SPLIT)]],
    4: [[(place, 1, ZSTD) for place in (3, 0, 2, 1)], [(2, 1, RAW), (0, 2, SPLIT), (3, 1, SPLIT)],
        [(0, 1, ZSTD), (1, 1, RAW), (2, 2, CONSTANT)], [(0, 4, RAW)], [(0, 2, ZSTD), (2, 2, ZSTD)], [(0, 4, CONSTANT)],
        [(0, 4, SPLIT)]],
    8: [[(place, 1, SPLIT) for place in range(8)], [(0, 4, RAW), (4, 2, RAW), (6, 1, RAW), (7, 1, ZSTD)],
        [(4, 4, CONSTANT), (0, 2, ZSTD), (2, 2, RAW)], [(0, 8, RAW)], [(0, 8, CONSTANT)], [(0, 8, SPLIT)]],
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


def frame(data):
    return zstandard.ZstdCompressor(level=3).compress(data)


def joined(integers, size):
    return b"".join(each.to_bytes(size, "little") for each in integers)


def stream(chance, integers, size, method, depth=0):
    """A group's stream; a split now and then in a split."""
    data = joined(integers, size)
    if method != SPLIT:
        return {RAW: data, ZSTD: frame(data), CONSTANT: data[:size]}[method]
    bits, coded = chance.choice([0, 1, 2]), chance.choice([0, 1])
    centre, rest = chance.choice([*integers[:2], 2 ** (8 * size) - 1]), 2 ** (bits or 1) - 1
    codes = [min((each - centre) % 2 ** (8 * size), rest) for each in integers]
    if bits == 0:
        marked = [-1, *(place for place, code in enumerate(codes) if code)]
        gaps = [place - before - 1 for before, place in itertools.pairwise(marked)]
        how = chance.choice([RAW, ZSTD])
        coded, kept = 0, groups_of(0, [(0, 4, how, stream(chance, gaps, 4, how))])
    else:
        number = sum(code << bits * place for place, code in enumerate(codes))
        kept = number.to_bytes(-(-len(codes) * bits // 8), "little")
        kept = frame(kept) if coded else kept
    left = [each for each, code in zip(integers, codes, strict=True) if code == rest]
    method = SPLIT if depth < 3 and left and chance.random() < 0.7 else RAW
    head = struct.pack("<BB2xII4xQ", bits, coded, len(kept), len(left), centre)
    return head + kept + groups_of(0, [(0, size, method, stream(chance, left, size, method, depth + 1))])


def groups_of(transform, groups):
    head = struct.pack("<BB6x", transform, len(groups))
    head += b"".join(struct.pack("<BBBxI", *group, len(data)) for *group, data in groups)
    return head + b"".join(data for *_, data in groups)


def packed(chance, width, transform, groups, tail):
    """(stored, raw, base): elements and tail from ``chance``."""
    count, bits = 37, 8 * width
    streams, values = [], [0] * count
    for place, size, method in groups:
        common = [chance.getrandbits(8 * size) + step for step in range(3)]
        choices = [*common, common[0], common[0], *(chance.getrandbits(8 * size) for _ in range(3))]
        integers = [chance.choice(choices) % 2 ** (8 * size) for _ in range(count)]
        if method == CONSTANT:
            integers = [common[0]] * count
        streams.append((place, size, method, stream(chance, integers, size, method)))
        values = [value | each << 8 * place for value, each in zip(values, integers, strict=True)]
    base = [chance.getrandbits(bits) for _ in range(count)]
    factor, fade = 0.0, lambda b: b
    if transform == 4:
        factor, base = 0.9, [(each & 0x80FFFFFF) | 0x3D000000 if place % 5 else chance.choice(EDGES) for place, each in
                             enumerate(base)]  # fmt: skip
        faded = dict(zip(base, scalar_faded(base, factor), strict=True))
        fade = faded.__getitem__
    back = {
        0: lambda t, b: t,
        1: lambda t, b: t >> 1 | (t & 1) << bits - 1,
        2: lambda t, b: (b + (-(t + 1) // 2 if t & 1 else t // 2)) % 2**bits,
        3: lambda t, b: (b + t) % 2**bits,
        4: lambda t, b: (fade(b) + t) % 2**bits,
        5: lambda t, b: (b + t - int.from_bytes(b"\x80" * width, "little")) % 2**bits,
    }[transform]
    raw = [back(t, b) for t, b in zip(values, base, strict=True)]
    stored = groups_of(transform, streams)
    if factor:
        stored = stored[:4] + struct.pack("<f", factor) + stored[8:]
    return stored + tail, joined(raw, width) + tail, joined(base, width) + b"\xee" * len(tail)


def scalar_faded(base, factor):
    """Each single times the factor, rounded once: by way of a double, in which the product is exact."""
    (single,) = struct.unpack("<f", struct.pack("<f", factor))
    for each in base:
        (number,) = struct.unpack("<f", struct.pack("<I", each))
        made = struct.unpack("<I", struct.pack("<f", number * single))[0] if number == number else 0x7FC00000
        yield made


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


def differences():
    """Planes of the differences that came later: plain, to what has faded, and balanced."""
    chance = random.Random(5)
    for width, groupings in GROUPINGS.items():
        for transform in (3, 4, 5) if width == 4 else (3, 5):
            for number, groups in enumerate(groupings):
                stored, raw, base = packed(chance, width, transform, groups, bytes(range(1, width))[: number % 2 * 8])
                name = f"width {width}, transform {transform}, groups {groups}"
                codec = (Codec.DELTA, Codec.PREDICTED)[number % 2]
                line(name=name, codec=codec, width=width, stored=stored, raw=raw, base=base)


def dtypes():
    """What the encoder makes of every dtype: each content, an odd number of elements, one, and none."""
    for dtype, (number, content) in itertools.product(sorted(DTYPE_WIDTHS), enumerate(CONTENTS)):
        width = DTYPE_WIDTHS[dtype]
        if re.search(r"u?int[1-7]$|bits|x[248]$", dtype) and content not in ("few", "usual"):
            continue  # bytes like others
        for count in (171 if width > 2 else 401, *((1, 0) if content == "usual" else ())):
            raw, base = (elements(dtype, content, count, seed) for seed in (0, 1))
            if content == "usual" and count > 1:  # mostly as before
                base = base[: 8 * width] + raw[8 * width :]
            found = [encode(raw, width, worth_it=1.0), encode(raw, width, base), encode_residual(raw, base, width)]
            if number % 3:
                found = found[number % 3 - 1 :: 2]
            for made in found:
                based = made.codec in (Codec.DELTA, Codec.PREDICTED)
                name = f"{dtype}, {content}, {count}, {made.codec.name}"
                stored, base_of_it = bytes(made.stored), base if based else b""
                line(name=name, codec=made.codec, width=width, stored=stored, raw=raw, base=base_of_it)


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


def trained(path):
    """A repository with every codec at ``path``; step → component → path → BLAKE3 of the bytes that were committed.

    Single precision and its bfloat16 cast; a snapshot each step, but one that comes two steps after the one before.
    Beside them integers that go up by little: what a rule predicts is no difference, and weights leave none for sure.
    """
    torch.manual_seed(0)
    chance = torch.Generator().manual_seed(1)
    counts = torch.randint(2**40, (2048,), generator=chance)
    repo = ciuic.Repo.init(path, chunk_size=4096)
    model = torch.nn.Sequential(torch.nn.Linear(48, 48), torch.nn.Linear(48, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    states = {}
    for step in range(6):
        for _ in range(2 if step == 3 else 1):
            optimizer.zero_grad()
            model(torch.randn(8, 48)).square().sum().backward()
            optimizer.step()
        half = {name: value.detach().bfloat16() for name, value in model.state_dict().items()}
        many = torch.arange(2048) // 100
        counts = counts + torch.randint(100, counts.shape, generator=chance)
        extra = {"half": half, "many": many, "counts": counts}
        repo.commit(model, optimizer, step=step, extra=extra, rng=False, wait=False)
        assert repo.wait(60)
        slots = {name: optimizer.state[value] for name, value in model.named_parameters()}
        states[step] = {
            "model": {name: hashed(value) for name, value in model.state_dict().items()},
            "optimizer": {f"state/{name}/{slot}": hashed(slots[name][slot]) for name in slots for slot in slots[name]},
            "extra": {
                "many": hashed(many),
                "counts": hashed(counts),
                **{f"half/{name}": hashed(value) for name, value in half.items()},
            },
        }
    repo.close()
    return states


def hashed(tensor):
    return blake3(as_bytes(tensor.detach().reshape(-1))).hexdigest()


def records(reader):
    """(codec, depth) of every record that the independent reader has found."""
    for path, offset, depth in (place for places in reader.places.values() for place in places):
        yield Path(path).read_bytes()[offset + 5], depth


def repository(path):
    """One with every codec."""
    cleaned(path, trained(path))


def branches(path):
    """Several branches and tags, one of them deleted; prunes, a reset, HEAD detached; packs that gc has rewritten."""
    states = trained(path)
    repo = ciuic.Repo(path)
    steps = {snapshot.step: snapshot for snapshot in repo.log()}
    repo.branch("läufe/a+b", at=steps[2])
    repo.tag("v1.0", at=steps[3])
    repo.branch("gone", at=steps[1])
    repo.delete_branch("gone")
    repo.switch("läufe/a+b")
    own = ciuic.Repo(path)
    values = {"long": "x" * 10_000, "n": 2**70, "t": (1, "a", None, 1 + 2j), "m": {3: b"\0", "k": [1.5, True]}}
    tensor = torch.arange(4000, dtype=torch.float64).reshape(40, 100)
    own.commit(extra={"tensor": tensor, "values": values}, step=100, message="auf dem Zweig\n\nzweite Zeile", rng=False)
    states[100] = {"extra": {"tensor": hashed(tensor)}}
    own.close()
    repo.prune(steps[0], "optimizer")
    repo.prune(steps[4])
    repo.reset(steps[3], branch="main")
    repo.switch(steps[5])
    repo.gc()
    repo.repack("läufe/a+b")
    del states[0]["optimizer"]
    states[4] = {}
    cleaned(path, states)


def cleaned(path, states):
    """Without what is not data, and without the name of the machine."""
    for derived in ("index", "tmp", "trash", "quarantine"):
        shutil.rmtree(path / derived, ignore_errors=True)
    for log in [path / "HEAD", path / "prunes", *(path / "refs").rglob("*")]:
        if log.is_file():
            name, data = unquote(log.relative_to(path).as_posix()), log.read_bytes()
            slots = (decode_record(name, data[start : start + 512]) for start in range(0, len(data), 512))
            log.write_bytes(b"".join(encode_record(name, replace(slot, actor="a@machine:1")) for slot in slots))
    (path / "expected.json").write_text(json.dumps(states, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["codecs"]:
        forms()
        encoded()
    elif sys.argv[1:] == ["differences"]:
        differences()
    elif sys.argv[1:] == ["dtypes"]:
        dtypes()
    elif sys.argv[1:2] == ["branches"] and len(sys.argv) == 3:
        branches(Path(sys.argv[2]))
    elif sys.argv[1:] == ["rules"]:
        recipes()
    elif sys.argv[1:2] == ["repository"] and len(sys.argv) == 3:
        repository(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)

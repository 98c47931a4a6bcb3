"""What was once stored is read for ever: fixtures that were checked in, read by ciuic and by the independent reader."""

import base64
import itertools
import json
import sys
from pathlib import Path

import pytest

from ciuic.codec import Codec, CodecError, decode, decode_into, rules
from ciuic.objects.dtypes import DTYPE_WIDTHS

sys.path.insert(0, str(Path(__file__).parent))
import independent_reader

GOLDEN = Path(__file__).with_name("golden")
BASED = (Codec.DELTA, Codec.PREDICTED)


def cases(name):
    lines = (json.loads(line) for line in (GOLDEN / name).read_text().splitlines())
    return [pytest.param(case, id=case["name"]) for case in lines]


def data(text):
    return [data(each) for each in text] if isinstance(text, list) else base64.b64decode(text)


@pytest.mark.parametrize("case", [*cases("codecs.jsonl"), *cases("differences.jsonl"), *cases("dtypes.jsonl")])
def test_stored_bytes_decode(case):
    """Into a buffer, as a whole, and by the independent reader."""
    codec, width, stored, raw, base = (
        case["codec"],
        case["width"],
        *(data(case[key]) for key in ("stored", "raw", "base")),
    )
    out = bytearray(base if codec in BASED else b"\xaa" * len(raw))
    decode_into(codec, stored, out, width)
    assert out == raw
    if codec not in BASED:
        assert decode(codec, stored, len(raw), width) == raw
    if codec >= Codec.PLANES:
        assert independent_reader.planes(stored, len(raw), width, base if codec in BASED else None) == raw


@pytest.mark.parametrize("case", cases("rules.jsonl"))
def test_rules_make_the_same_bytes(case):
    """By ciuic and by the independent reader, bit for bit."""
    bases, raw = data(case["bases"]), data(case["raw"])
    out = bytearray(len(raw))
    rules.apply(case["rule"], case["numbers"], bases, out)
    assert out == raw
    assert independent_reader.follow(case, bases, len(raw)) == raw


@pytest.mark.parametrize("case", [*cases("codecs.jsonl"), *cases("differences.jsonl")])
def test_a_cut_is_noticed(case):
    """Stored bytes of planes that end early, or go on, are refused, and not read as something else."""
    if case["codec"] < Codec.PLANES:
        return
    stored, raw = data(case["stored"]), data(case["raw"])
    for wrong in (stored[:-1], stored + b"\0", stored[:3], b""):
        with pytest.raises(CodecError):
            decode_into(case["codec"], wrong, bytearray(len(raw)), case["width"])


def test_every_codec_and_rule_has_its_fixtures():
    """Each codec that has stored bytes, on each width; each rule."""
    met = {(case.values[0]["codec"], case.values[0]["width"]) for case in cases("codecs.jsonl")}
    assert met >= {(codec, width) for codec in (Codec.PLANES, Codec.DELTA, Codec.PREDICTED) for width in (1, 2, 4, 8)}
    assert {codec for codec, _ in met} == {codec.value for codec in Codec} - {Codec.DERIVED.value}
    assert {case.values[0]["rule"] for case in cases("rules.jsonl")} == {
        "cast", "adamw.second_moment", "adamw.weight",
    }  # fmt: skip


def test_every_transform_and_method_has_its_fixtures():
    """Each on each width, whole and in every method: also those that no encoder makes any more, or makes seldom."""
    met = set()
    for case in [*cases("codecs.jsonl"), *cases("differences.jsonl")]:
        if case.values[0]["codec"] in (Codec.PLANES, Codec.DELTA, Codec.PREDICTED):
            stored = data(case.values[0]["stored"])
            for place in range(8, 8 + 8 * stored[1], 8):
                met.add((case.values[0]["width"], stored[0], stored[place + 2]))
    every = set(itertools.product((1, 2, 4, 8), (0, 1, 2, 3, 5), range(4)))
    assert met >= every | {(4, 4, method) for method in range(4)}


def test_every_dtype_has_its_fixtures():
    """With one element, with none, and with an odd number of them; floats with NaNs, −0.0 and denormals."""
    names = [case.id.split(", ") for case in cases("dtypes.jsonl")]
    assert {name for name, *_ in names} == set(DTYPE_WIDTHS)
    for dtype in DTYPE_WIDTHS:
        own = [rest for name, *rest in names if name == dtype]
        assert {count for _, count, _ in own} >= {"0", "1"} and any(int(count) > 100 for _, count, _ in own)
        if "float" in dtype or "complex" in dtype:
            assert "x2" in dtype or {content for content, _, _ in own} >= {"edges", "equal", "random", "zeros"}
    assert {codec for *_, codec in names} >= {"RAW", "ZSTD", "PLANES", "DELTA", "PREDICTED"}

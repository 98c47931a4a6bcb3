"""What was once stored is read for ever: fixtures that were checked in, read by ciuic and by the independent reader."""

import base64
import json
import sys
from pathlib import Path

import pytest

from ciuic.codec import Codec, CodecError, decode, decode_into, rules

sys.path.insert(0, str(Path(__file__).parent))
import independent_reader

GOLDEN = Path(__file__).with_name("golden")
BASED = (Codec.DELTA, Codec.PREDICTED)


def cases(name):
    lines = (json.loads(line) for line in (GOLDEN / name).read_text().splitlines())
    return [pytest.param(case, id=case["name"]) for case in lines]


def data(text):
    return [data(each) for each in text] if isinstance(text, list) else base64.b64decode(text)


@pytest.mark.parametrize("case", cases("codecs.jsonl"))
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


@pytest.mark.parametrize("case", cases("codecs.jsonl"))
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

"""Decoding many like maps: what repeats is not decoded again, and the answers stay the same."""

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.objects.encoding import EncodingError, Repeated, decode, encode
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.snapshot import Snapshot, decode_snapshot, encode_snapshot

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
maps = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(st.lists(maps, max_size=6))
def test_decoding_with_a_memory_is_decoding(several: list[dict[str, object]]) -> None:
    repeated: Repeated = {}
    for each in [*several, *several]:
        data = encode(each)
        assert encode(decode(data, repeated)) == data


@given(maps, st.binary(max_size=40))
def test_a_memory_makes_nothing_valid(remembered: dict[str, object], data: bytes) -> None:
    repeated: Repeated = {}
    whole = encode(remembered)
    decode(whole, repeated)
    for attempt in (data, whole + data, whole[: len(data)] + data):
        try:
            expected = encode(decode(attempt))
        except EncodingError:
            with pytest.raises(EncodingError):
                decode(attempt, repeated)
        else:
            assert encode(decode(attempt, repeated)) == expected


def test_snapshots_share_nothing_that_can_be_changed() -> None:
    raw = encode_snapshot(
        Snapshot(
            id="",
            step=1,
            epoch=None,
            timestamp=datetime(2025, 4, 5, tzinfo=timezone.utc),
            message="",
            metrics={"loss": 1.0},
            config={"layers": [1, 2]},
            parents=(),
            tree={},
            contains=(),
            raw_bytes={"model": 3},
            added_bytes=0,
            versions={"ciuic": "1"},
        )
    )
    id = object_id(Kind.SNAPSHOT, raw)
    first, second = decode_snapshot(raw, id), decode_snapshot(raw, id)
    assert first == second
    first.metrics.clear()
    first.versions.clear()
    first.raw_bytes.clear()
    first.config["layers"].append(3)
    assert second == decode_snapshot(raw, id)
    assert second.config == {"layers": [1, 2]}

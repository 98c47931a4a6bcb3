"""Hypothesis strategies: plain values, tensors and whole states, as commits take them. Needs no torch."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from ciuic.commit.leaves import BytesSource
from ciuic.errors import InvalidRefName
from ciuic.objects.dtypes import NUMPY_DTYPES, PACKED_ELEMENTS, element_width
from ciuic.objects.state_tree import Container, StateNode, Tensor, Value
from ciuic.store.refs import check_name

DTYPES = tuple(sorted(NUMPY_DTYPES | {"bfloat16", "float8_e4m3fn", "float8_e5m2"} - PACKED_ELEMENTS.keys()))


def plain_values() -> st.SearchStrategy[Any]:
    """Whatever may stand in ``extra`` or in an optimizer's groups: NaN, huge integers, bytes, nested containers."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=40)
    )
    keys = st.one_of(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1))
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(keys, inner, max_size=4),
        ),
        max_leaves=8,
    )


@st.composite
def tensors(draw: st.DrawFn, most_elements: int = 3000) -> Tensor:
    """Of any dtype and shape, also empty and without dimensions; all equal, or with a pattern, or any bytes."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=3)))
    if draw(st.booleans()):
        shape = (draw(st.integers(0, most_elements)),)
    size = math.prod(shape) * element_width(dtype)
    pattern = draw(st.binary(min_size=1, max_size=16))
    if dtype == "bool":
        pattern = bytes(byte & 1 for byte in pattern)
    return Tensor(dtype, shape, BytesSource((pattern * (size // len(pattern) + 1))[:size]))


@st.composite
def states(draw: st.DrawFn) -> dict[str, StateNode]:
    """The components of a snapshot: a module of tensors, and containers of whatever there may be."""
    names = st.lists(st.from_regex(r"[a-z]{1,6}(\.[a-z0-9]{1,6})?", fullmatch=True), max_size=4, unique=True)
    model: list[tuple[str | int, StateNode]] = [(name, draw(tensors())) for name in draw(names)]
    extra: list[tuple[str | int, StateNode]] = [(name, Value(draw(plain_values()))) for name in draw(names)]
    return {"model": Container("module", tuple(model)), "extra": Container("dict", tuple(extra))}


def branch_names() -> st.SearchStrategy[str]:
    """Names that a branch or a tag may have."""
    return st.from_regex(r"[\w.@+-]{1,12}(/[\w.@+-]{1,12})?", fullmatch=True).filter(_may_name)


def _may_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidRefName:
        return False
    return True

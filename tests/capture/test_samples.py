"""Strided samples see any change of a whole tensor, at any alignment and size, and never a change elsewhere."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic.capture.samples import FEWEST_PER_TENSOR, Samples

pieces = st.lists(st.tuples(st.integers(8, 5000), st.integers(0, 7)), min_size=1, max_size=8)


def buffers(shapes):
    """Arrays of bytes at chosen offsets from an aligned address."""
    return [
        numpy.random.default_rng(size).integers(0, 256, size + 64, dtype=numpy.uint8)[offset : offset + size]
        for size, offset in shapes
    ]


def copied(array):
    """A copy at an aligned address, as in a slot."""
    copy = numpy.empty(len(array) + 8, dtype=numpy.uint8)[: len(array)]
    copy[:] = array
    assert copy.ctypes.data % 8 == 0
    return copy


@settings(max_examples=60, deadline=None)
@given(pieces)
def test_a_true_copy_is_the_same_and_a_changed_one_is_not(shapes):
    """Every byte of one piece changed: its copy differs, the others' do not."""
    arrays = buffers(shapes)
    samples = Samples([array.ctypes.data for array in arrays], [len(array) for array in arrays])
    copies = [copied(array) for array in arrays]
    assert all(samples.same(index, copy.ctypes.data) for index, copy in enumerate(copies))
    for index, copy in enumerate(copies):
        copy += 1
        assert not samples.same(index, copy.ctypes.data)
        assert all(samples.same(other, each.ctypes.data) for other, each in enumerate(copies) if other > index)


@pytest.mark.parametrize("where", [0, -1])
def test_the_ends_are_sampled(where):
    """A copy that was torn anywhere has an end that is newer or older than the other."""
    array = buffers([(4096, 0)])[0]
    samples = Samples([array.ctypes.data], [len(array)])
    copy = copied(array)
    copy.view(numpy.uint64)[where] += 1
    assert not samples.same(0, copy.ctypes.data)


def test_many_tensors_are_sampled_less_densely():
    """The call reads a bounded number of places, and never fewer than a few a tensor."""
    arrays = buffers([(64, 0)] * 5000)
    samples = Samples([array.ctypes.data for array in arrays], [64] * 5000)
    assert samples._places.shape == (5000, FEWEST_PER_TENSOR)


def test_none():
    """No tensor, no sample."""
    Samples([], [])

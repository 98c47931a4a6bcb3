"""What another library has set for a thread's floating point neither changes a guess nor is changed."""

import ctypes
import platform
import sys
import threading

import numpy as np
import pytest
import torch

from ciuic.codec import arithmetic, rules
from ciuic.codec.adamw import numbers
from ciuic.codec.arithmetic import InexactArithmetic, computes_exactly, ieee

STEP = numbers({"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-40, "weight_decay": 0.01}, 3.0, True)
UPWARD = {"x86_64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}.get(platform.machine())


def in_a_thread(work):
    """What ``work`` returns in a thread of its own, whose settings die with it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def tiny(seed):
    """Denormals, and normals whose results are denormal."""
    chance = np.random.default_rng(seed)
    return (chance.standard_normal(30_000) * 10.0 ** chance.uniform(-44, -36, 30_000)).astype(np.float32)


@pytest.fixture(scope="module")
def bases():
    return tiny(0), tiny(1), np.abs(tiny(2))


def guesses(bases):
    found = []
    for rule in ("adamw.second_moment", "adamw.weight"):
        out = bytearray(bases[0].nbytes)
        rules.apply(rule, STEP, bases, out)
        found.append(bytes(out))
    half = bytearray(bases[0].nbytes // 2)
    rules.apply("cast", {"from": "float32", "to": "bfloat16", "skip": 0}, [bases[0]], half)
    wide = np.arange(len(bases[0]), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    wide = (wide & np.uint64(2**57 - 1)) + np.uint64(860 << 52)  # doubles about the smallest float32
    single = bytearray(bases[0].nbytes)
    rules.apply("cast", {"from": "float64", "to": "float32", "skip": 0}, [wide], single)
    return [*found, bytes(half), bytes(single)]


def flushing():
    """Whether this thread takes denormals for zero, as torch sees it."""
    return (torch.full((8,), 1e-45) * 1.0).tolist() == [0.0] * 8


def test_flushed_denormals_change_nothing(bases):
    """A guess made under ``torch.set_flush_denormal`` is the one made without, and torch's setting outlives it."""

    def work():
        if not torch.set_flush_denormal(True):
            return None
        assert flushing() and not computes_exactly()
        found = guesses(bases)
        assert flushing() and not computes_exactly()
        return found

    flushed = in_a_thread(work)
    if flushed is None:
        pytest.skip("this processor cannot flush denormals")
    plain = guesses(bases)
    assert flushed == plain
    assert any(0 < number < 2.0**-126 for number in np.frombuffer(plain[1], np.float32)), "denormals were made"
    assert any(0 < number < 2.0**-126 for number in np.frombuffer(plain[3], np.float32))


@pytest.mark.skipif(UPWARD is None or sys.platform == "darwin", reason="how this processor rounds is not known here")
def test_another_rounding_changes_nothing(bases):
    """A thread that rounds upward gets the same bytes, and rounds upward afterwards."""
    library = ctypes.CDLL("libm.so.6")

    def work():
        assert library.fesetround(UPWARD) == 0
        assert not computes_exactly()
        found = guesses(bases)
        assert library.fegetround() == UPWARD
        return found

    assert in_a_thread(work) == guesses(bases)


def test_arithmetic_that_cannot_be_had_is_an_error(monkeypatch, bases):
    """Without a way to set the processor, a thread that flushes is refused; one that computes exactly is not."""
    monkeypatch.setattr(arithmetic, "_ENVIRONMENT", None)
    guesses(bases)

    def work():
        if not torch.set_flush_denormal(True):
            return "skip"
        try:
            guesses(bases)
        except InexactArithmetic as error:
            return str(error)
        return "a guess"

    said = in_a_thread(work)
    assert said == "skip" or "flushes denormals" in said


def test_it_is_put_back_after_an_error():
    """And numpy's own treatment of errors too."""

    def work():
        torch.set_flush_denormal(True)
        before = flushing(), np.geterr()
        with pytest.raises(KeyError), ieee():
            assert computes_exactly() and not flushing()
            raise KeyError
        return before == (flushing(), np.geterr())

    assert in_a_thread(work)


def test_nested_uses_end_one_by_one():
    """The inner one puts back what the outer one had set."""

    def work():
        torch.set_flush_denormal(True)
        with ieee():
            with ieee():
                pass
            return computes_exactly()

    assert in_a_thread(work)

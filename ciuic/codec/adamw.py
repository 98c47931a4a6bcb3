"""One step of Adam or AdamW, as torch computes it on the CPU: the second moment and the weights from the first moment.

torch has ``m1 = m0 + (1−β1)(g − m0)``, so the gradient is nearly known; the second moment follows from it, and the
weights follow exactly from the two moments. Each operation below is rounded once, in the order in which it stands
(docs/format.md has the rules), so a guess has the same bits on every machine, whatever torch did there.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

WIDTH = 4
BLOCK = 16384
"""Elements at a time: scratch stays in the processor's caches, and a call costs little against its work."""
NAN = np.uint32(0x7FC00000)

Floats = np.ndarray[Any, np.dtype[np.float32]]


class _Scratch(threading.local):
    """One block each, for every thread."""

    def __init__(self) -> None:
        self.a = np.empty(BLOCK, np.float64)
        self.b = np.empty(BLOCK, np.float64)
        self.s = np.empty(BLOCK, np.float32)
        self.t = np.empty(BLOCK, np.float32)
        self.nans = np.empty(BLOCK, np.bool_)


_scratch = _Scratch()


def second_moment(numbers: Mapping[str, Any], v0: Floats, m0: Floats, m1: Floats, out: Floats) -> None:
    """``out`` becomes the guess of the second moment after the step. All of one length; ``out`` may be ``v0``.

    g = float32(m0 + (m1 − m0) · gain), in float64; v0·keep and g·take in float32; then their fused sum
    float32(v0·keep + (g·take) · g): a product of two float32 is exact in float64.
    """
    gain = np.array(numbers["gain"], np.float64)
    keep, take = (np.array(numbers[name], np.float32) for name in ("keep", "take"))
    own = _scratch
    for start in range(0, len(out), BLOCK):
        part = slice(start, start + BLOCK)
        into = out[part]
        a, b, s, g = (each[: len(into)] for each in (own.a, own.b, own.s, own.t))
        np.copyto(a, m0[part])
        np.copyto(b, m1[part])
        np.subtract(b, a, out=b)
        np.multiply(b, gain, out=b)
        np.add(b, a, out=b)
        np.copyto(g, b, casting="same_kind")
        np.multiply(g, take, out=s)
        np.copyto(a, g)
        np.copyto(b, s)
        np.multiply(a, b, out=a)
        np.multiply(v0[part], keep, out=s)
        np.copyto(b, s)
        np.add(a, b, out=a)
        np.copyto(into, a, casting="same_kind")
        _one_nan(into)


def weight(numbers: Mapping[str, Any], w0: Floats, m1: Floats, v1: Floats, out: Floats) -> None:
    """``out`` becomes the guess of the weights after the step. All of one length; ``out`` may be ``w0``.

    w0·decay + (m1·rate) / (√v1 / root + eps), all in float32.
    """
    decay, rate, root, eps = (np.array(numbers[name], np.float32) for name in ("decay", "rate", "root", "eps"))
    own = _scratch
    for start in range(0, len(out), BLOCK):
        part = slice(start, start + BLOCK)
        into = out[part]
        s, t = own.s[: len(into)], own.t[: len(into)]
        np.sqrt(v1[part], out=s)
        np.divide(s, root, out=s)
        np.add(s, eps, out=s)
        np.multiply(m1[part], rate, out=t)
        np.divide(t, s, out=t)
        np.multiply(w0[part], decay, out=into)
        np.add(into, t, out=into)
        _one_nan(into)


RULES = {"adamw.second_moment": second_moment, "adamw.weight": weight}


def floats(buffer: Any) -> Floats:
    return np.frombuffer(buffer, np.float32)


def _one_nan(block: Floats) -> None:
    """What bits a NaN gets from an operation differs between machines: here they are always the same."""
    nans = np.isnan(block, out=_scratch.nans[: len(block)])
    if nans.any():
        block.view(np.uint32)[nans] = NAN


def numbers(group: Mapping[str, Any], step: float, decoupled: bool) -> dict[str, Any] | None:
    """The numbers of both rules for a step by ``group`` (torch's names); None where they do not fit.

    ``step``: its number, from 1. ``decoupled``: as AdamW has it, where the group itself does not say. ``maximize`` and
    a decay that goes through the gradient are in the first moment already.
    """
    betas = group.get("betas")
    if group.get("amsgrad") or not isinstance(betas, (tuple, list)) or len(betas) != 2:
        return None
    own = group.get("decoupled_weight_decay")
    lr, eps, decay = (group.get(name) for name in ("lr", "eps", "weight_decay"))
    found = [float(each) for each in (lr, eps, decay, *betas, step) if _is_finite(each)]
    if len(found) < 6:
        return None
    lr, eps, decay, beta1, beta2, step = found
    return _derived(lr, eps, decay if (own if isinstance(own, bool) else decoupled) else 0.0, beta1, beta2, step)


def _is_finite(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _derived(lr: float, eps: float, decay: float, beta1: float, beta2: float, step: float) -> dict[str, Any] | None:
    """What torch computes in Python's floats, then rounded to float32 as its kernels do."""
    if step < 1 or not 0 <= beta1 < 1 or not 0 <= beta2 < 1:
        return None
    first, second = 1 - beta1**step, 1 - beta2**step
    mean = _in_single(1 - beta1)
    if not mean or not first or not second:
        return None
    singles = {
        "keep": beta2,
        "take": 1 - beta2,
        "decay": 1 - lr * decay,
        "rate": -(lr / first),
        "root": second**0.5,
        "eps": eps,
    }
    rounded = {name: _in_single(number) for name, number in singles.items()}
    if None in rounded.values() or not rounded["root"]:
        return None
    return {"gain": 1 / mean, **rounded}


def _in_single(number: float) -> float | None:
    """The nearest float of single precision; None where it is too large."""
    try:
        (single,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        return None
    return float(single)

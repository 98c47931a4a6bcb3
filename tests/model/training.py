"""What a training's state looks like, in numpy alone: weights, Adam's moments, a half-precision copy, frozen parts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ciuic.codec import adamw, rules
from ciuic.commit.leaves import BytesSource
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, path_text, walk

ELEMENTS = 1100
"""Of each tensor: two chunks of 4096 bytes, the second one short."""
GROUP = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}


@dataclass(frozen=True)
class State:
    """Raw bytes: weights, first and second moment, the bfloat16 copy, a part that rarely changes; and Adam's step."""

    w: bytes
    m: bytes
    v: bytes
    half: bytes
    frozen: bytes
    step: int

    def components(self) -> dict[str, StateNode]:
        """As a commit takes it."""
        slots = {"step": _float32(np.float32(self.step).tobytes(), ()), "exp_avg": _float32(self.m)}
        slots["exp_avg_sq"] = _float32(self.v)
        optimizer = {
            "class": Value("torch.optim.adamw.AdamW"),
            "state": _dict({"layer.weight": _dict(slots)}),
            "param_groups": Container("list", ((0, Value({**GROUP, "params": ["layer.weight"]})),)),
        }
        half = Tensor("bfloat16", (ELEMENTS,), BytesSource(self.half))
        frozen = Tensor("uint8", (len(self.frozen),), BytesSource(self.frozen))
        return {
            "model": Container("module", (("layer.weight", _float32(self.w)), ("frozen.table", frozen))),
            "optimizer": _dict(optimizer),
            "extra": _dict({"half": half, "step": Value(self.step)}),
        }

    def contents(self) -> dict[str, object]:
        """As ``contents`` reads it back."""
        return {name: content for part in self.components().items() for name, content in contents(*part).items()}


def contents(component: str, node: StateNode) -> dict[str, object]:
    """Every leaf of a component by its path: a tensor as (dtype, shape, bytes), a plain value as it is."""
    return {
        path_text((component, *path)): (leaf.dtype, leaf.shape, bytes(leaf.source.read(0, leaf.source.nbytes)))
        if isinstance(leaf, Tensor)
        else leaf.value
        for path, leaf in walk(node)
    }


def state_of(leaves: Mapping[str, Any]) -> State:
    """The state that a whole snapshot's ``contents`` are those of."""
    moments = (f"optimizer/state/layer.weight/{name}" for name in ("exp_avg", "exp_avg_sq"))
    tensors = ("model/layer.weight", *moments, "extra/half", "model/frozen.table")
    return State(*(leaves[name][2] for name in tensors), leaves["extra/step"])


def fresh(seed: int) -> State:
    """A run that begins; the same for the same seed, so that two branches may hold the same chunks."""
    numbers = np.random.default_rng(seed)
    w = (numbers.standard_normal(ELEMENTS) * 0.02).astype(np.float32).tobytes()
    return State(w, bytes(len(w)), bytes(len(w)), _half(w), random.Random(seed).randbytes(3000), 0)


def same(before: State, seed: int) -> State:
    """Nothing has changed: the chunks are all known."""
    return before


def nudged(before: State, seed: int) -> State:
    """A few weights have: a small delta; the copy in half precision is left behind."""
    numbers = np.random.default_rng(seed)
    w = np.frombuffer(before.w, np.float32).copy()
    w[numbers.integers(0, ELEMENTS, 20)] += np.float32(0.01)
    return replace(before, w=w.tobytes())


def cast(before: State, seed: int) -> State:
    """The copy follows its master."""
    return replace(before, half=_half(before.w))


def stepped(before: State, seed: int) -> State:
    """One step of Adam, as torch rounds it, but for a few weights; the copy goes along."""
    numbers = np.random.default_rng(seed)
    step = before.step + 1
    rule = adamw.numbers(GROUP, step, True)
    assert rule is not None
    gradient = numbers.standard_normal(ELEMENTS) * 1e-2
    m0 = np.frombuffer(before.m, np.float32)
    m = (m0 + (1 - 0.9) * (gradient - m0)).astype(np.float32).tobytes()
    v = _applied("adamw.second_moment", rule, [before.v, before.m, m])
    w = np.frombuffer(_applied("adamw.weight", rule, [before.w, m, v]), np.float32).copy()
    w[numbers.integers(0, ELEMENTS, 5)] *= np.float32(1.0001)
    return replace(before, w=w.tobytes(), m=m, v=v, half=_half(w.tobytes()), step=step)


def thawed(before: State, seed: int) -> State:
    """The frozen part is another one."""
    return replace(before, frozen=random.Random(seed).randbytes(3000))


def restarted(before: State, seed: int) -> State:
    """Nothing is as it was."""
    return fresh(seed)


CHANGES = {each.__name__: each for each in (same, nudged, cast, stepped, thawed, restarted)}


def _float32(data: bytes, shape: tuple[int, ...] = (ELEMENTS,)) -> Tensor:
    return Tensor("float32", shape, BytesSource(data))


def _dict(items: Mapping[str, StateNode]) -> Container:
    pairs: list[tuple[Key, StateNode]] = list(items.items())
    return Container("dict", tuple(pairs))


def _applied(rule: str, numbers: Mapping[str, object], bases: list[bytes]) -> bytes:
    out = bytearray(len(bases[0]))
    rules.apply(rule, numbers, bases, out)
    return bytes(out)


def _half(w: bytes) -> bytes:
    out = bytearray(len(w) // 2)
    rules.apply("cast", {"from": "float32", "to": "bfloat16", "skip": 0}, [w], out)
    return bytes(out)

"""Tensor changes summed over the modules that hold them, on every level of the module tree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ciuic.history.tensor_change import TensorChange, most_telling_first
from ciuic.history.tensor_statistics import counted_elements, relative_l2
from ciuic.objects.state_tree import Key, Tensor, path_text


@dataclass(frozen=True)
class ModuleChange:
    """A module with a changed tensor in it, however deep.

    ``path`` reads "model/layers.0" ("model" for the whole model) and "optimizer/state/layers.0" for the
    optimizer state of its parameters, where ``slot`` tells one kind of state from the next ("exp_avg"; empty
    for weights). ``depth`` is 0 for the whole, 1 for "layers", 2 for "layers.0". ``tensors``, ``elements``
    count all tensors below, changed or not. ``l2`` is the norm of all differences together, ``relative_l2``
    that over the norm of the *changed* tensors before; both, and ``max_abs``, are None when no changed
    tensor has statistics.
    """

    path: str
    slot: str
    depth: int
    tensors: int
    changed_tensors: int
    elements: int
    changed_elements: int
    changed_fraction: float
    l2: float | None
    relative_l2: float | None
    max_abs: float | None
    nonfinite_elements: int


_Place = tuple[str, str, int]
"""Path, slot and depth of a module."""


def sum_by_module(
    changes: Mapping[tuple[Key, ...], TensorChange], unchanged: Mapping[tuple[Key, ...], Tensor]
) -> tuple[ModuleChange, ...]:
    """Modules with at least one change, in the order of ``Diff.tensors``."""
    totals: dict[_Place, tuple[list[TensorChange], list[int]]] = {}
    for key, change in changes.items():
        for place in _modules_above(key):
            totals.setdefault(place, ([], []))[0].append(change)
    for key, tensor in unchanged.items():
        for place in _modules_above(key):
            if place in totals:
                totals[place][1].append(counted_elements(tensor))
    summed = (_sum(place, changed, same) for place, (changed, same) in totals.items())
    return tuple(sorted(summed, key=most_telling_first))


def _modules_above(key: tuple[Key, ...]) -> Iterator[_Place]:
    """Places of every module that holds the tensor at ``key``, outermost first."""
    holder, name, slot = _split(key)
    parts = name.split(".")[:-1]
    for depth in range(len(parts) + 1):
        module = ".".join(parts[:depth])
        yield (f"{holder}/{module}" if module else holder), slot, depth


def _split(key: tuple[Key, ...]) -> tuple[str, str, str]:
    """What holds the dotted name, the dotted name, and the slot of optimizer state below it.

    Optimizer state lies at "optimizer/[name of the optimizer/]state/<parameter>/<slot>".
    """
    if key[0] == "optimizer" and "state" in key[1:3]:
        at = key.index("state", 1)
        if len(key) > at + 2:
            return path_text(key[: at + 1]), str(key[at + 1]), path_text(key[at + 2 :])
    if len(key) == 1:
        return str(key[0]), "", ""
    return path_text(key[:-1]), str(key[-1]), ""


def _sum(place: _Place, changed: list[TensorChange], unchanged_elements: list[int]) -> ModuleChange:
    path, slot, depth = place
    measured = [(c.l2, c.norm_before, c.max_abs) for c in changed if c.l2 is not None]
    l2 = math.hypot(*(l2 or 0.0 for l2, _, _ in measured))
    norm_before = math.hypot(*(norm or 0.0 for _, norm, _ in measured))
    elements = sum(c.elements for c in changed) + sum(unchanged_elements)
    changed_elements = sum(c.changed_elements for c in changed)
    return ModuleChange(
        path=path,
        slot=slot,
        depth=depth,
        tensors=len(changed) + len(unchanged_elements),
        changed_tensors=len(changed),
        elements=elements,
        changed_elements=changed_elements,
        changed_fraction=changed_elements / elements,
        l2=l2 if measured else None,
        relative_l2=relative_l2(l2, norm_before) if measured else None,
        max_abs=max(most or 0.0 for _, _, most in measured) if measured else None,
        nonfinite_elements=sum(c.nonfinite_elements for c in changed),
    )

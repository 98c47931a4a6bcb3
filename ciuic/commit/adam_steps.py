"""Parameters that have taken exactly one step of Adam since the parent snapshot, with what the rule needs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ciuic.codec import CodecError, adamw, encode_residual, rules
from ciuic.commit.bases import Bases
from ciuic.commit.casts import MOST_CANDIDATES
from ciuic.commit.earlier import Groups
from ciuic.commit.leaves import Leaf, Path
from ciuic.objects.state_tree import Container, Key, Plain, StateNode, Value, expand

TRIAL_BYTES = 8 << 10
EXPLAINED = 0.1
"""Share of the bytes that a right guess leaves at most; a wrong one leaves half of them and more."""

Numbers = Mapping[str, Plain]


@dataclass
class AdamStep:
    """A parameter's leaves, and the numbers that its step may have used, the likeliest first.

    A program sets the learning rate anew before or after it takes a snapshot: it is this one's or the parent's.
    ``misses`` counts the chunks for which a guess was of no use.
    """

    weight: Leaf
    first: Leaf
    second: Leaf
    numbers: Sequence[Numbers]
    misses: dict[str, int] = field(default_factory=lambda: {"weight": 0, "second": 0})

    @property
    def leaves(self) -> tuple[Leaf, Leaf, Leaf]:
        return self.weight, self.first, self.second


def adam_steps(
    components: Mapping[str, StateNode], leaves: Iterable[Leaf], bases: Bases, earlier: Groups
) -> tuple[list[AdamStep], Groups]:
    """The steps, and the hyper-parameters by the path of a parameter's state; ``earlier``: the parent's."""
    by_path = {leaf.path: leaf for leaf in leaves}
    weights = {"/".join(map(str, path[1:])): leaf for path, leaf in by_path.items() if path[0] == "model"}
    masters = _masters(by_path.values())
    steps: list[AdamStep] = []
    now: Groups = {}
    root = components.get("optimizer")
    for path, optimizer in _optimizers(root, ("optimizer",)) if root is not None else ():
        decoupled = "AdamW" in str(_value(optimizer.get("class")))
        for group, names in _groups(optimizer):
            for name in names:
                own = (*path, "state", name)
                now[own] = group
                first, second = (by_path.get((*own, slot)) for slot in ("exp_avg", "exp_avg_sq"))
                if first is None or second is None or first.shape != second.shape:
                    continue
                if not (_in_memory(first, bases) and _in_memory(second, bases)):
                    continue
                step = _one_more((*own, "step"), by_path, bases)
                if step is None:
                    continue
                groups = [group] if earlier.get(own, group) == group else [group, earlier[own]]
                numbers = [adamw.numbers(each, step, decoupled) for each in groups]  # type: ignore[arg-type]
                usable = [each for each in numbers if each is not None]
                weight = weights.get(name)
                if weight is None or weight.shape != first.shape or not _in_memory(weight, bases):
                    weight = _explained(masters.get(first.shape, []), first, second, usable, bases)
                if weight is not None and usable:
                    steps.append(AdamStep(weight, first, second, usable))
    return steps, now


def _masters(leaves: Iterable[Leaf]) -> dict[tuple[int, ...], list[Leaf]]:
    """Shape → the fp32 tensors outside of the model that may be what an optimizer steps, moments apart."""
    found: dict[tuple[int, ...], list[Leaf]] = {}
    for leaf in leaves:
        if leaf.path[0] != "model" and leaf.part == "other" and leaf.dtype == "float32" and leaf.source.nbytes >= 1024:
            found.setdefault(leaf.shape, []).append(leaf)
    return found


def _explained(masters: list[Leaf], first: Leaf, second: Leaf, numbers: Iterable[Numbers], bases: Bases) -> Leaf | None:
    """The parameter of these moments among ``masters``, from which it is taken: the one that the rule explains.

    Weights in half precision are stepped in full precision elsewhere, under a name of the program's choice.
    """
    stop = min(TRIAL_BYTES, first.source.nbytes)
    m1, v1 = (leaf.source.read(0, stop) for leaf in (first, second))
    for number, leaf in enumerate(masters[:MOST_CANDIDATES]):
        if not _in_memory(leaf, bases):
            continue
        before = bases.earlier[leaf.path].source
        assert before is not None, "it is in memory"
        for each in numbers:
            guess = bytearray(stop)
            try:
                rules.apply("adamw.weight", each, [before.read(0, stop), m1, v1], guess)
            except CodecError:
                return None
            if len(encode_residual(leaf.source.read(0, stop), guess, 4, check=False).stored) <= EXPLAINED * stop:
                return masters.pop(number)
    return None


def _optimizers(node: StateNode, path: Path) -> Iterator[tuple[Path, Container]]:
    if isinstance(node, Container):
        if {"class", "state", "param_groups"} <= {key for key, _ in node.items}:
            yield path, node
            return
        for key, child in node.items:
            yield from _optimizers(child, (*path, key))


def _groups(optimizer: Container) -> Iterator[tuple[dict[Key, Plain], list[str]]]:
    groups = expand(optimizer["param_groups"])
    for _, each in groups.items if isinstance(groups, Container) else ():
        opened = expand(each)
        if isinstance(opened, Container):
            group = {key: _value(node) for key, node in opened.items}
            names = group.pop("params", None)
            yield group, [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _value(node: StateNode | None) -> Plain:
    """What a node without tensors stands for; None for one with."""
    if isinstance(node, Value):
        return node.value
    if isinstance(node, Container) and node.kind in ("list", "tuple"):
        values = [_value(child) for _, child in node.items]
        return values if node.kind == "list" else tuple(values)
    return None


def _in_memory(leaf: Leaf, bases: Bases) -> bool:
    before = bases.leaf(leaf)
    return leaf.dtype == "float32" and before is not None and before.source is not None


def _one_more(path: Path, leaves: Mapping[Path, Leaf], bases: Bases) -> float | None:
    """The step's number now, if it is one more than in the parent."""
    leaf = leaves.get(path)
    before = bases.leaf(leaf) if leaf is not None else None
    if leaf is None or leaf.dtype != "float32" or leaf.shape != () or before is None or before.source is None:
        return None
    now, then = (_float(source.read(0, 4)) for source in (leaf.source, before.source))
    return now if now == then + 1 else None


def _float(data: Any) -> float:
    (number,) = struct.unpack("<f", data)
    return float(number)

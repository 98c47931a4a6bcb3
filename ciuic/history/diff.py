"""The numeric diff of two snapshots: which values, keys and tensors differ, and by how much.

Pure: two state trees in, one :class:`Diff` out. Stored tensors whose chunk ids are equal are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciuic.errors import Pruned, UnknownPath
from ciuic.history.leaves import Leaf, Leaves, Path, describe, leaves_of, same_plain
from ciuic.history.module_changes import ModuleChange, sum_by_module
from ciuic.history.tensor_change import TensorChange, compare, most_telling_first
from ciuic.history.tensor_statistics import same_chunks
from ciuic.objects.state_tree import Plain, StateNode, Tensor, Value, path_text

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot

__all__ = ["Diff", "ModuleChange", "TensorChange", "TypeChange", "ValueChange", "diff_states"]


@dataclass(frozen=True)
class ValueChange:
    """A plain value at ``path``.

    ``kind`` is "changed", "added" (``before`` is None) or "removed" (``after`` is None). In ``Diff.values``
    it is always "changed": keys that come and go are in ``Diff.added`` and ``Diff.removed``.
    """

    path: str
    before: Plain
    after: Plain
    kind: str = "changed"


@dataclass(frozen=True)
class TypeChange:
    """A tensor or container that became another kind of thing.

    ``before`` and ``after`` read like "float32[4, 3]", "float32[4, 3] tied to embed.weight", "int", "list".
    """

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class Diff:
    """What changed from ``a`` to ``b``. Paths read "component/key/…": "model/layers.0.weight".

    ``config``, ``metrics``: the snapshots' own; empty when the diff was limited to a path.
    ``values``: changed plain values of the state, such as "optimizer/param_groups/0/lr".
    ``added``, ``removed``: paths of tensors, plain values and empty containers that only one of the two has.
    ``retyped``: tensors of another dtype, shape or tie, and containers of another kind.
    ``tensors``: tensors with other bits: those with new NaNs or infinities first, then the model's, the optimizer's
    last and its step counters after all others; each most changed first, by ``relative_l2``, and after them those
    without statistics. A tensor tied in both appears once, under its first name.
    ``unchanged_count``: tensors with the same bits in both.
    ``pruned``: components that one of the two has given up; they are in no other field.
    ``generators``: the random generators in another state, "rng/torch", and "data/generators/torch" of the position in
    the data; they are in no other field.
    ``modules``: ``tensors`` summed over each module on each level, in the same order.
    """

    a: Snapshot
    b: Snapshot
    config: tuple[ValueChange, ...]
    metrics: tuple[ValueChange, ...]
    values: tuple[ValueChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[TypeChange, ...]
    tensors: tuple[TensorChange, ...]
    unchanged_count: int
    generators: tuple[str, ...]
    pruned: tuple[str, ...]
    modules: tuple[ModuleChange, ...]

    @property
    def same_state(self) -> bool:
        """True when every key, value and bit of the compared state is the same, config and metrics apart."""
        values = self.values or self.added or self.removed or self.retyped
        return not (values or self.tensors or self.generators)


def diff_states(
    a_snapshot: Snapshot,
    b_snapshot: Snapshot,
    a: Mapping[str, StateNode],
    b: Mapping[str, StateNode],
    *,
    path: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two states, given as component name → tree, without the components that were pruned.

    ``path`` limits the comparison to what lies at or below it ("optimizer", "model/layers.0"). ``progress`` is
    called with the bytes compared so far and in all. Raises UnknownPath when neither state has ``path``, Pruned when
    it lies in a pruned component, and whatever reading a stored tensor raises.
    """
    pruned = sorted({*a_snapshot.tree} - {*a} | {*b_snapshot.tree} - {*b})
    if path.split("/")[0] in pruned:
        raise Pruned(f"{path!r}: this component of one of the snapshots was pruned. Compare others.")
    before, after = (leaves_of({name: each[name] for name in each if name not in pruned}) for each in (a, b))
    if path:
        before, after = before.below(path.rstrip("/")), after.below(path.rstrip("/"))
        if not before and not after:
            raise UnknownPath(f"neither snapshot has {path!r}: `ciuic ls REV` lists what one holds")
    both = [(key, leaf, after.by_path[key]) for key, leaf in before.by_path.items() if key in after.by_path]
    pairs = [pair for pair in both if not _generator(pair[0])]
    changes, unchanged = _compare_tensors(pairs, progress)
    return Diff(
        a=a_snapshot,
        b=b_snapshot,
        config=() if path else _changed_entries(a_snapshot.config, b_snapshot.config),
        metrics=() if path else _changed_entries(a_snapshot.metrics, b_snapshot.metrics),
        values=tuple(_changed_values(pairs)),
        added=_beside_generators(after.without(before)),
        removed=_beside_generators(before.without(after)),
        retyped=(*_changed_containers(before, after), *_changed_types(pairs)),
        tensors=tuple(sorted(changes.values(), key=most_telling_first)),
        unchanged_count=len(unchanged),
        pruned=() if path else tuple(pruned),
        generators=_changed_generators(before, after),
        modules=sum_by_module(changes, unchanged),
    )


GENERATORS = ("rng",), ("data", "generators")
"""Where states of random generators are: those of now, and those that the epoch's data began with."""

_Pairs = list[tuple[Path, Leaf, Leaf]]


def _compare_tensors(
    pairs: _Pairs, progress: Callable[[int, int], None] | None
) -> tuple[dict[Path, TensorChange], dict[Path, Tensor]]:
    """Changed tensors and unchanged ones. Reads only what the chunk ids do not decide."""
    changes: dict[Path, TensorChange] = {}
    unchanged: dict[Path, Tensor] = {}
    undecided: list[tuple[Path, Tensor, Tensor]] = []
    for key, a, b in _comparable_once(pairs):
        if same_chunks(a.source, b.source):
            unchanged[key] = a
        else:
            undecided.append((key, a, b))
    total = sum(a.source.nbytes for _, a, _ in undecided)
    done = 0

    def advance(read: int) -> None:
        nonlocal done
        done += read
        if progress is not None:
            progress(done, total)

    for key, a, b in undecided:
        change = compare(path_text(key), a, b, advance=advance)
        if change is None:
            unchanged[key] = a
        else:
            changes[key] = change
    return changes, unchanged


def _comparable_once(pairs: _Pairs) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Tensors with one dtype and shape in both; of names that are tied alike in both, the first alone."""
    comparable = {
        key: (a, b)
        for key, a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
    }
    for key, (a, b) in comparable.items():
        if a.tie is None or a.tie != b.tie or (key[0], *a.tie) not in comparable:
            yield key, a, b


def _generator(key: Path) -> Path | None:
    """The path of the generator that the leaf belongs to."""
    for above in GENERATORS:
        if key[: len(above)] == above and len(key) > len(above):
            return key[: len(above) + 1]
    return None


def _changed_generators(before: Leaves, after: Leaves) -> tuple[str, ...]:
    """Numbers say nothing about the state of a generator, so each that differs at all is just named."""
    changed = {}
    for key in (*before.by_path, *(key for key in after.by_path if key not in before.by_path)):
        name, a, b = _generator(key), before.by_path.get(key), after.by_path.get(key)
        if name is not None and name not in changed and (a is None or b is None or _differ(key, a, b)):
            changed[name] = path_text(name)
    return tuple(changed.values())


def _beside_generators(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if _generator(tuple(path.split("/"))) is None)


def _differ(key: Path, a: Leaf, b: Leaf) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor) and describe(a) == describe(b):
        return not same_chunks(a.source, b.source) and compare(path_text(key), a, b) is not None
    return not (isinstance(a, Value) and isinstance(b, Value) and same_plain(a.value, b.value))


def _changed_values(pairs: _Pairs) -> Iterator[ValueChange]:
    for key, a, b in pairs:
        if isinstance(a, Value) and isinstance(b, Value):
            if not same_plain(a.value, b.value):
                yield ValueChange(path_text(key), a.value, b.value)
        elif isinstance(a, Tensor) and isinstance(b, Tensor) and not same_plain(a.quantizer, b.quantizer):
            yield ValueChange(path_text((*key, "quantizer")), a.quantizer, b.quantizer)


def _changed_containers(a: Leaves, b: Leaves) -> Iterator[TypeChange]:
    for key, kind in a.container_kinds.items():
        other = b.container_kinds.get(key, kind)
        if other != kind:
            yield TypeChange(path_text(key), kind, other)


def _changed_types(pairs: _Pairs) -> Iterator[TypeChange]:
    """Plain values are left out: a value of another type is a changed value."""
    for key, a, b in pairs:
        if isinstance(a, Value) and isinstance(b, Value):
            continue
        before, after = describe(a), describe(b)
        if before != after:
            yield TypeChange(path_text(key), before, after)


def _changed_entries(a: Mapping[str, Plain], b: Mapping[str, Plain]) -> tuple[ValueChange, ...]:
    before, after = _entries(a), _entries(b)
    changes = []
    for key in dict.fromkeys([*before, *after]):
        kind = "added" if key not in before else "removed" if key not in after else "changed"
        if kind != "changed" or not same_plain(before[key], after[key]):
            changes.append(ValueChange(path_text(key), before.get(key), after.get(key), kind))
    return tuple(changes)


def _entries(mapping: Mapping[str, Plain]) -> dict[Path, Plain]:
    leaves = Leaves()
    leaves.add(Value(dict(mapping)), ())
    return {key: leaf.value for key, leaf in leaves.by_path.items() if isinstance(leaf, Value)}

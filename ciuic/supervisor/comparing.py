"""Two histories of one training, compared step by step: from where on, and in what, they differ. No tensor is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ciuic.history.leaves import Leaves, same_plain
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import StateNode, Tensor, path_text
from ciuic.repo import Repo

GENERATORS = ("rng",)
AT_EPOCH = ("data", "generators")
"""Where the states of generators are: by name below these."""


@dataclass(frozen=True)
class Difference:
    """The state after ``step`` differs at ``paths``, in their order: "model/0.weight", "rng/torch". ``tensor``: the
    first that is a tensor, at this step or a later one (``tensor_step``); None when there is none."""

    step: int
    paths: tuple[str, ...]
    tensor: str | None = None
    tensor_step: int | None = None

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path.split("/")[0] for path in self.paths))


@dataclass(frozen=True)
class Comparison:
    """``steps``: with a snapshot in both. ``last``: the last step of each. ``unseeded``: names of generators that
    begin differently each time, and were left out. ``difference``: None when all of it is the same, bit for bit."""

    steps: tuple[int, ...]
    last: tuple[int | None, int | None]
    components: tuple[str, ...]
    unseeded: tuple[str, ...] = ()
    difference: Difference | None = None

    @property
    def same(self) -> bool:
        return self.difference is None and self.last[0] == self.last[1] and bool(self.steps)


def compare(a: Repo, b: Repo, fresh_until: int | None = None) -> Comparison:
    """Every snapshot of one with those of the other of the same step.

    ``fresh_until``: the last step that both have done without a resume on the way; None: all of them. A generator that
    differs in the first such step was not seeded, and is left out: what was drawn from it would be seen elsewhere.
    """
    before, after = _by_step(a), _by_step(b)
    steps = tuple(sorted(before.keys() & after.keys()))
    last = (max(before, default=None), max(after, default=None))
    components = tuple(dict.fromkeys(name for step in steps for each in before[step] for name in each.tree))
    look = _Look(a, b)
    unseeded: tuple[str, ...] = ()
    if steps and (fresh_until is None or steps[0] <= fresh_until):
        first = look.differing(before[steps[0]][0], after[steps[0]][0])
        unseeded = tuple(dict.fromkeys(name for path in first if (name := generator_of(path)) is not None))
    look.left_out = frozenset(unseeded)
    difference: Difference | None = None
    for step in steps:
        paths = {path: kind for x in before[step] for y in after[step] for path, kind in look.differing(x, y).items()}
        if paths and difference is None:
            difference = Difference(step, tuple(paths))
        tensor = next((path for path, is_tensor in paths.items() if is_tensor), None)
        if difference is not None and tensor is not None:
            difference = Difference(difference.step, difference.paths, tensor, step)
            break
    return Comparison(steps, last, components, unseeded, difference)


def generator_of(path: str) -> str | None:
    """The name of the generator whose state, or a part of it, is at a path; None where there is none."""
    parts = tuple(path.split("/"))
    for place in (GENERATORS, AT_EPOCH):
        if parts[: len(place)] == place and len(parts) > len(place):
            return parts[len(place)]
    return None


def _by_step(repo: Repo) -> Mapping[int, list[Snapshot]]:
    found: dict[int, list[Snapshot]] = defaultdict(list)
    for snapshot in repo.log_all():
        if snapshot.step is not None:
            found[snapshot.step].append(snapshot)
    return found


class _Look:
    """Differences between a snapshot of one repository and one of the other."""

    def __init__(self, a: Repo, b: Repo) -> None:
        self._repos = a, b
        self.left_out: frozenset[str] = frozenset()

    def differing(self, a: Snapshot, b: Snapshot) -> dict[str, bool]:
        """Path → whether it is a tensor. A component with one id in both is the same without a look."""
        names = [name for name in dict.fromkeys([*a.tree, *b.tree]) if a.tree.get(name) != b.tree.get(name)]
        if not names:
            return {}
        trees = [repo.components(each) for repo, each in zip(self._repos, (a, b), strict=True)]
        found: dict[str, bool] = {}
        for name in names:
            for path, is_tensor in _differing(name, trees[0].get(name), trees[1].get(name)):
                if generator_of(path) not in self.left_out:
                    found[path] = is_tensor
        return found


def _differing(name: str, a: StateNode | None, b: StateNode | None) -> Iterator[tuple[str, bool]]:
    """A whole generator stands for what differs in it: its state is not read by people."""
    if a is None or b is None:
        yield name, False
        return
    leaves = [Leaves(), Leaves()]
    for each, node in zip(leaves, (a, b), strict=True):
        each.add(node, (name,))
    one, other = (each.by_path for each in leaves)
    before = set[str]()
    for path in dict.fromkeys([*one, *other]):
        x, y = one.get(path), other.get(path)
        if x is not None and y is not None and _same(x, y):
            continue
        text = path_text(path)
        generator = generator_of(text)
        if generator is not None:
            text = text[: text.index(generator) + len(generator)]
        if text not in before:
            before.add(text)
            yield text, isinstance(x or y, Tensor) and generator is None
    if not before and leaves[0].container_kinds != leaves[1].container_kinds:
        yield name, False


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        kinds = [
            (each.dtype, each.shape, each.tie, each.array, getattr(each.source, "chunks", None)) for each in (a, b)
        ]
        return kinds[0] == kinds[1] and same_plain(a.quantizer, b.quantizer)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return same_plain(getattr(a, "value", None), getattr(b, "value", None))

"""``Repo.load``: a stored state as nested mappings that read a tensor when it is asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import torch

from ciuic.objects.state_tree import Container, Key, StateNode, Tensor
from ciuic.state.leaves import to_live
from ciuic.state.slices import TensorSlice

Device: TypeAlias = "torch.device | str"


@dataclass(frozen=True)
class Made:
    """The tensors of one component that were read already, by path, for ties; ``device``: where they go."""

    device: Device = "cpu"
    tensors: dict[tuple[Key, ...], Any] = field(default_factory=dict)


def lazily(node: StateNode, made: Made, path: tuple[Key, ...] = ()) -> Any:
    """Values as they are, tensors read now, containers lazily."""
    if isinstance(node, Container):
        return LazyList(node, made, path) if node.kind in ("list", "tuple") else LazyDict(node, made, path)
    if isinstance(node, Tensor):
        first = node.tie or path
        if first not in made.tensors:
            made.tensors[first] = to_live(node, device=made.device)
        return made.tensors[first]
    return node.value


def tensor_slice(node: StateNode, key: Key, made: Made) -> TensorSlice:
    """TypeError for what is no torch tensor."""
    if not isinstance(node, Tensor) or node.array != "torch":
        raise TypeError(f"{key!r} is no torch tensor. Read it whole.")
    return TensorSlice(node, made.device)


class LazyDict(Mapping[Key, Any]):
    """A stored dict or module. ``dict(state["model"])`` is what ``load_state_dict`` takes."""

    def __init__(self, node: Container, made: Made, path: tuple[Key, ...]) -> None:
        self._children = dict(node.items)
        self._made = made
        self._path = path

    def __getitem__(self, key: Key) -> Any:
        return lazily(self._children[key], self._made, (*self._path, key))

    def get_slice(self, key: Key) -> TensorSlice:
        """The tensor of that name, to be indexed before it is read: ``state["model"].get_slice("0.weight")[10:20]``.

        TypeError for anything but a torch tensor, UnsupportedState for a quantised one.
        """
        return tensor_slice(self._children[key], key, self._made)

    def __contains__(self, key: object) -> bool:
        return key in self._children  # without reading the tensor

    def __iter__(self) -> Iterator[Key]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def __repr__(self) -> str:
        return f"<{len(self)} entries: {', '.join(str(key) for key in list(self)[:6])}{', …' if len(self) > 6 else ''}>"


class LazyList(Sequence[Any]):
    """A stored list or tuple with tensors in it."""

    def __init__(self, node: Container, made: Made, path: tuple[Key, ...]) -> None:
        self._children = [child for _, child in node.items]
        self._made = made
        self._path = path

    def get_slice(self, index: int) -> TensorSlice:
        """The tensor at that place, to be indexed before it is read."""
        return tensor_slice(self._children[index], index, self._made)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return lazily(self._children[number], self._made, (*self._path, number))

    def __len__(self) -> int:
        return len(self._children)


class LazyState(Mapping[str, Any]):
    """The components of a snapshot; one that was pruned raises ``Pruned`` when it is asked for."""

    def __init__(
        self,
        names: Iterable[str],
        components: Mapping[str, StateNode],
        missing: Callable[[str], StateNode | None],
        device: Device = "cpu",
    ) -> None:
        """``missing`` is called for a name that is not in ``components``, and raises Pruned."""
        self._device = torch.device(device)
        self._names = tuple(names)
        self._components = components
        self._missing = missing
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            node = self._components.get(name) or self._missing(name)
            if node is None:
                raise KeyError(name)
            self._made[name] = lazily(node, Made(self._device))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names  # pruned ones too

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<state with {', '.join(self)}>"

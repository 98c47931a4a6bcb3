"""Any live value → state tree, and a state tree → new Python objects."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.plain import mapping_kind, to_encodable
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, path_text
from ciuic.state.modules import plain_name, unwrap
from ciuic.state.optimizers import NamedState, named_optimizer_state
from ciuic.state.tensors import USUAL, LiveTensor, tensor_leaf, to_torch

MOST_NESTED = 150
SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
KEYS = frozenset((str, int))
NO_NAMES: Mapping[int, str] = {}
MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter, "module": dict}


@dataclass
class Capture:
    """What is shared while one component is read: parameter names, and who was the first to hold a piece of memory.

    ``in_place(value)``: a node to stand for a module or a torch optimizer; None to read it now.
    """

    parameter_names: Callable[[], Mapping[int, str]] = lambda: NO_NAMES
    in_place: Callable[[Any], Container | None] = lambda _value: None
    holders: dict[int, list[tuple[Tensor, tuple[Key, ...]]]] = field(default_factory=dict)  # by address

    def leaf(self, tensor: torch.Tensor, path: tuple[Key, ...], array: str = "torch") -> Tensor:
        """The tensor's leaf, with ``tie`` set when an earlier one of this component is the same memory."""
        return self.tied(tensor_leaf(tensor, path, array), path)

    def tied(self, leaf: Tensor, path: tuple[Key, ...]) -> Tensor:
        """A leaf over a live tensor, with ``tie`` set when an earlier one of this component is the same memory."""
        source: Any = leaf.source
        if not source.nbytes:
            return leaf
        address = source.address
        held = self.holders.get(address)
        if held is None:
            self.holders[address] = [(leaf, path)]
            return leaf
        for other, first in held:
            if _memory(other) == _memory(leaf):
                return leaf if first == path else replace(leaf, tie=first[1:])
        held.append((leaf, path))
        return leaf


def _memory(leaf: Tensor) -> tuple[Any, ...]:
    """What two leaves that begin at one address have in common when they are the same memory."""
    assert isinstance(leaf.source, LiveTensor)
    tensor = leaf.source.tensor
    return tensor.device, tensor.stride(), leaf.shape, leaf.dtype, leaf.array


def has_state(value: Any) -> bool:
    """Whether ``value`` saves and loads itself."""
    both = callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))
    return both and not isinstance(value, type)


def is_state_dict(value: Any) -> bool:
    """A module's state_dict rather than the module: a flat dict of named tensors."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items())
    )


def to_tree(value: Any, path: tuple[Key, ...], capture: Capture) -> StateNode:
    """The state tree of ``value``. UnsupportedState names the path of what cannot be stored.

    No tensor or array is copied; everything else is, so that later changes to it are not seen.
    """
    if len(path) > MOST_NESTED:
        raise UnsupportedState(
            f"{path_text(path[:8])}/…: nested more than {MOST_NESTED} deep, or inside itself. Make it flatter."
        )
    kind = type(value)
    if kind in USUAL or isinstance(value, torch.Tensor):
        return capture.leaf(value, path)
    if kind in SCALARS:
        return Value(value)
    if kind is dict:
        return _mapping(value, path, capture)
    if kind is list or kind is tuple:
        return _sequence(value, path, capture)
    if isinstance(value, (numpy.ndarray, numpy.generic)) and not isinstance(value, (str, bytes)):
        return _numpy_leaf(value, path, capture)
    if isinstance(value, torch.nn.Module):
        return _module(unwrap(value), path, capture)
    if isinstance(value, torch.optim.Optimizer):
        return _optimizer(value, path, capture)
    if has_state(value):
        return to_tree(_state_of(value, path), path, capture)
    if isinstance(value, dict):
        return _mapping(value, path, capture)
    if isinstance(value, (list, tuple)):
        return _sequence(value, path, capture)
    if isinstance(value, (bytearray, memoryview)):
        return Value(bytes(value))
    to_encodable(value, path_text(path))
    return Value(value)


def _state_of(value: Any, path: tuple[Key, ...]) -> Any:
    """What an object says of itself. That this fails must not end a training: an error of ours, by its path."""
    try:
        return value.state_dict()
    except Exception as error:
        raise UnsupportedState(
            f"{path_text(path)}: the state_dict of a {type(value).__qualname__} failed, "
            f"{type(error).__name__}: {error}. Mend it, or leave the object out."
        ) from error


def _mapping(value: dict[Any, Any], path: tuple[Key, ...], capture: Capture) -> StateNode:
    if path[0] == "model" and is_state_dict(value):
        return Container(
            "module", tuple([(name, to_tree(item, (*path, name), capture)) for name, item in value.items()])
        )
    if not KEYS.issuperset(map(type, value)):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise UnsupportedState(
                    f"{path_text(path)}: dict key {key!r} is a {type(key).__name__}. Keys must be strings or integers."
                )
    return _container(
        mapping_kind(value), [(key, to_tree(item, (*path, key), capture)) for key, item in value.items()], value
    )


def _sequence(value: list[Any] | tuple[Any, ...], path: tuple[Key, ...], capture: Capture) -> StateNode:
    if len(path) < MOST_NESTED and SCALARS.issuperset(map(type, value)):
        return Value(list(value) if isinstance(value, list) else tuple(value))  # Python's generator has 625 of them
    items: list[tuple[Key, StateNode]] = [
        (index, to_tree(item, (*path, index), capture)) for index, item in enumerate(value)
    ]
    return _container("list" if isinstance(value, list) else "tuple", items, value)


def _container(kind: str, items: list[tuple[Key, StateNode]], value: Any) -> StateNode:
    """Containers without a tensor in them are one Value."""
    nodes = []
    for _, node in items:
        if not isinstance(node, Value):
            return Container(kind, tuple(items))
        nodes.append(node.value)
    if kind in MAPPINGS:
        return Value(MAPPINGS[kind](dict(zip(value, nodes, strict=True))))
    return Value(nodes if kind == "list" else tuple(nodes))


def _module(module: torch.nn.Module, path: tuple[Key, ...], capture: Capture) -> Container:
    standing = capture.in_place(module)
    if standing is not None:
        return standing
    named = [(plain_name(name), item) for name, item in _state_of(module, path).items()]
    return Container("module", tuple([(name, to_tree(item, (*path, name), capture)) for name, item in named]))


def _optimizer(optimizer: torch.optim.Optimizer, path: tuple[Key, ...], capture: Capture) -> Container:
    standing = capture.in_place(optimizer)
    if standing is not None:
        return standing
    return named_state_tree(optimizer, named_optimizer_state(optimizer, capture.parameter_names()), path, capture)


def named_state_tree(
    optimizer: torch.optim.Optimizer, named: NamedState, path: tuple[Key, ...], capture: Capture
) -> Container:
    """An optimizer's tree: {"class", "state": {parameter name: {slot: …}}, "param_groups", "other"}."""
    state = tuple([(name, to_tree(slots, (*path, "state", name), capture)) for name, slots in named.state.items()])
    items: list[tuple[Key, StateNode]] = [
        ("class", Value(type(optimizer).__name__)),
        ("state", Container("module", state)),
        ("param_groups", to_tree(named.groups, (*path, "param_groups"), capture)),
    ]
    if named.other:
        items.append(("other", to_tree(named.other, (*path, "other"), capture)))
    return Container("dict", tuple(items))


def _numpy_leaf(value: Any, path: tuple[Key, ...], capture: Capture) -> Tensor:
    array = numpy.asarray(value)
    kind = "numpy" if isinstance(value, numpy.ndarray) else "numpy.generic"
    if isinstance(value, numpy.ma.MaskedArray):
        raise UnsupportedState(f"{path_text(path)}: cannot store a masked array. Pass its data and its mask.")
    if array.dtype.byteorder not in "=|" or any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    if array.dtype.kind in "iu":
        array = array.view(array.dtype.str)  # numpy has two names for 64 bits, and torch knows one
    try:
        tensor = torch.from_numpy(array)
    except TypeError:
        raise UnsupportedState(
            f"{path_text(path)}: cannot store a numpy array of dtype {array.dtype}. Use numbers or booleans."
        ) from None
    return capture.leaf(tensor, path, kind)


def to_live(
    node: StateNode,
    made: dict[tuple[Key, ...], Any] | None = None,
    path: tuple[Key, ...] = (),
    device: torch.device | str = "cpu",
) -> Any:
    """New Python objects and tensors with the tree's content; tied tensors come back as one object.

    ``made`` collects the tensors by path, for ties. numpy's arrays stay where numpy has them.
    """
    made = {} if made is None else made
    if isinstance(node, Value):
        return node.value
    if isinstance(node, Tensor):
        if node.tie is not None and node.tie in made:
            return made[node.tie]
        tensor = to_torch(node, device if node.array == "torch" else "cpu")
        made[path] = tensor
        if node.array == "torch":
            return tensor
        array = tensor.numpy()
        made[path] = array if node.array == "numpy" else array[()]
        return made[path]
    items = [(key, to_live(child, made, (*path, key), device)) for key, child in node.items]
    if node.kind in MAPPINGS:
        return MAPPINGS[node.kind](dict(items))  # a Counter would count pairs
    values = [item for _, item in items]
    return values if node.kind == "list" else tuple(values)

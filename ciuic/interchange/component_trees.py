"""What a torch file holds ↔ the state tree of a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from ciuic.errors import InvalidImport
from ciuic.interchange.optimizer_layout import is_optimizer_state, to_index_layout, to_name_layout
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor
from ciuic.state.leaves import Capture, to_live, to_tree


def to_plain_objects(name: str, node: StateNode) -> Any:
    """New plain containers and CPU tensors, tied ones as one object, optimizers in torch's own layout.

    numpy arrays become tensors, which ``torch.load(weights_only=True)`` reads.
    """
    state = to_live(_as_arrays_of("torch", node))
    return _optimizers_by_index(state) if name == "optimizer" else state


def _as_arrays_of(library: str, node: StateNode) -> StateNode:
    if isinstance(node, Container):
        return Container(node.kind, tuple((key, _as_arrays_of(library, child)) for key, child in node.items))
    return replace(node, array=library) if isinstance(node, Tensor) else node


def _optimizers_by_index(state: Any) -> Any:
    if is_optimizer_state(state):
        return to_index_layout(state)
    if isinstance(state, Mapping):
        return {name: _optimizers_by_index(each) for name, each in state.items()}
    return [_optimizers_by_index(each) for each in state] if isinstance(state, (list, tuple)) else state


def to_component(name: str, state: Any, file: str) -> StateNode:
    """The tree that a commit of the live object gives. ``state`` is one object's, or a dict or list of such.

    Raises InvalidImport for what is no model's or optimizer's state, and UnsupportedState for a tensor that
    cannot be stored.
    """
    capture = Capture()
    if name == "model":
        return _models(state, (name,), capture, file)
    if name == "optimizer":
        return _optimizers(state, (name,), capture, file)
    tree = to_tree(state, (name,), capture)
    if name != "rng" or not isinstance(tree, Container):
        return tree
    # numpy's generator takes its own arrays back, which an export wrote as tensors.
    children = ((key, _as_arrays_of("numpy", child) if key == "numpy" else child) for key, child in tree.items)
    return Container(tree.kind, tuple(children))


def _models(state: Any, path: tuple[Key, ...], capture: Capture, file: str) -> StateNode:
    if isinstance(state, (list, tuple)) or (isinstance(state, Mapping) and _holds_several(state)):
        return _several(state, path, lambda child, below: _models(child, below, capture, file))
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise InvalidImport(f"{file} holds no model: a mapping of names to tensors is needed. Say what else it is.")
    return Container("module", tuple((key, to_tree(item, (*path, key), capture)) for key, item in state.items()))


def _holds_several(state: Mapping[Any, Any]) -> bool:
    return (
        bool(state)
        and not any(isinstance(item, torch.Tensor) for item in state.values())
        and all(isinstance(item, (Mapping, list, tuple)) for item in state.values())
    )


def _optimizers(state: Any, path: tuple[Key, ...], capture: Capture, file: str) -> StateNode:
    if is_optimizer_state(state):
        named = to_name_layout(state, file)
        slots = ((key, to_tree(item, (*path, "state", key), capture)) for key, item in named["state"].items())
        rest = [(key, to_tree(item, (*path, key), capture)) for key, item in named.items() if key != "state"]
        return Container("dict", (rest[0], ("state", Container("module", tuple(slots))), *rest[1:]))
    if not isinstance(state, (Mapping, list, tuple)) or not state:
        raise InvalidImport(f"{file} holds no optimizer: state and param_groups are needed. Say what else it is.")
    return _several(state, path, lambda child, below: _optimizers(child, below, capture, file))


def _several(state: Any, path: tuple[Key, ...], convert: Callable[[Any, tuple[Key, ...]], StateNode]) -> Container:
    kind = "dict" if isinstance(state, Mapping) else "list" if isinstance(state, list) else "tuple"
    pairs = state.items() if isinstance(state, Mapping) else enumerate(state)
    return Container(kind, tuple((key, convert(child, (*path, key))) for key, child in pairs))

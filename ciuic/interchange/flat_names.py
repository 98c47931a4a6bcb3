"""Nested state ↔ the flat names of a safetensors file.

One model needs nothing but its own dotted names. Several (``commit({"generator": g, "critic": c})``), and
any other nested state, get their keys joined by "/", and a map of the containers so that an import finds the
nesting again: ``{"": "dict", "generator": "module", "critic": "module"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ciuic.errors import InvalidImport, UnsupportedState
from ciuic.objects.plain import MAPPINGS
from ciuic.objects.state_tree import CONTAINER_KINDS, Container, Key, StateNode, Tensor, path_text

CONTAINERS_KEY = "ciuic.containers"
"""The metadata key that holds the map of containers, as JSON."""

DEEPEST = 64


def flatten(node: StateNode, component: str) -> tuple[dict[tuple[Key, ...], Tensor], dict[str, str]]:
    """Every tensor by its path, and the kind of each container by its joined path.

    Raises UnsupportedState, which names the path, for what has no place in a safetensors file: plain values,
    keys that are not text, two paths that read the same.
    """
    tensors: dict[tuple[Key, ...], Tensor] = {}
    containers: dict[str, str] = {}
    _collect(node, (), component, tensors, containers)
    if len({path_text(path) for path in tensors} | set(containers)) < len(tensors) + len(containers):
        raise UnsupportedState(f"{component}: two keys read alike once joined by '/'. Export to a .pt file instead.")
    return tensors, containers


def _collect(
    node: StateNode,
    path: tuple[Key, ...],
    component: str,
    tensors: dict[tuple[Key, ...], Tensor],
    containers: dict[str, str],
) -> None:
    where = path_text((component, *path))
    if isinstance(node, Tensor):
        tensors[path] = node
    elif isinstance(node, Container):
        if path_text(path) in containers:
            raise UnsupportedState(f"{where}: two keys read alike once joined by '/'. Export to a .pt file instead.")
        containers[path_text(path)] = node.kind
        for key, child in node.items:
            if isinstance(key, int) and node.kind not in ("list", "tuple"):
                raise UnsupportedState(
                    f"{where}: a safetensors file cannot hold the integer key {key}. Export to a .pt file instead."
                )
            _collect(child, (*path, key), component, tensors, containers)
    else:
        raise UnsupportedState(
            f"{where} is a {type(node.value).__name__}, and a safetensors file holds only tensors. "
            "Export to a .pt file instead."
        )


def containers_metadata(containers: Mapping[str, str]) -> dict[str, str]:
    """The metadata entry; none for a single flat mapping, which needs no map."""
    return {} if set(containers) <= {""} else {CONTAINERS_KEY: json.dumps(containers)}


def unflatten(tensors: Mapping[str, Any], metadata: Mapping[str, str], file: str) -> Any:
    """Nested dicts, lists and tuples of what ``tensors`` holds. InvalidImport when the map contradicts it."""
    if CONTAINERS_KEY not in metadata:
        return dict(tensors)
    kinds = _read_kinds(metadata[CONTAINERS_KEY], file)
    items: dict[str, dict[str, Any]] = {path: {} for path in kinds}
    for name, tensor in tensors.items():
        parent = _parent(name, kinds, file)
        items[parent][_below(parent, name)] = tensor
    for path in sorted(filter(None, kinds), key=lambda path: -path.count("/")):
        parent = _parent(path, kinds, file)
        items[parent][_below(parent, path)] = _build(kinds[path], items[path], file)
    return _build(kinds[""], items[""], file)


def _read_kinds(text: str, file: str) -> dict[str, str]:
    try:
        kinds = json.loads(text)
    except (ValueError, RecursionError):
        kinds = None
    if not isinstance(kinds, dict) or "" not in kinds or not set(map(str, kinds.values())) <= set(CONTAINER_KINDS):
        raise InvalidImport(f"{file}: the metadata {CONTAINERS_KEY} is not a map of containers. Export the file again.")
    return kinds


def _parent(path: str, kinds: Mapping[str, str], file: str) -> str:
    """The longest proper prefix of ``path`` that is a container."""
    if path.count("/") > DEEPEST:
        raise InvalidImport(f"{file}: a name with more than {DEEPEST} levels. Export the file again.")
    end = path.rfind("/")
    while end > 0:
        if path[:end] in kinds:
            return path[:end]
        end = path.rfind("/", 0, end)
    return ""


def _below(parent: str, path: str) -> str:
    return path[len(parent) + 1 :] if parent else path


def _build(kind: str, items: dict[str, Any], file: str) -> Any:
    if kind not in ("list", "tuple"):
        return MAPPINGS.get(kind, dict)(items)
    try:
        ordered = [items[str(index)] for index in range(len(items))]
    except KeyError as error:
        raise InvalidImport(f"{file}: a {kind} in it has no item {error}. Export the file again.") from error
    return ordered if kind == "list" else tuple(ordered)

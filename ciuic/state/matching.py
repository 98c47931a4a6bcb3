"""The road back: match a stored state tree with live objects first, change them only when everything fits."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy
import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, expand, path_text, walk
from ciuic.state.leaves import has_state, is_state_dict, to_live
from ciuic.state.modules import plain_name, unwrap
from ciuic.state.tensors import check_supported, dtype_name, fill, tensor_leaf

EXTRA_STATE = "_extra_state"
KeyFilter: TypeAlias = "str | Iterable[str] | Callable[[str], bool] | None"


def key_predicate(keys: KeyFilter) -> Callable[[str], bool]:
    """Whether a path ("model/layers.0.weight") is wanted: a glob, several, a function, or None for all."""
    if keys is None:
        return lambda path: True
    if callable(keys):
        return keys
    patterns = [keys] if isinstance(keys, str) else list(keys)
    return lambda path: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


@dataclass
class Plan:
    """What a restore will do. ``problems`` empty means that everything fits; ``tensors`` are what it will read."""

    wanted: Callable[[str], bool]
    strict: bool
    parameter_names: Mapping[int, str]
    actions: list[Callable[[], None]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _memory: dict[tuple[Any, ...], tuple[str, Any]] = field(default_factory=dict)

    def problem(self, text: str, *, partial: bool = True) -> None:
        """A difference: fatal when strict; otherwise ``partial`` ones are skipped and listed."""
        (self.problems if self.strict or not partial else self.skipped).append(text)

    def read(self, node: StateNode) -> None:
        """Note the tensors below ``node``: their stored bytes are checked before anything changes."""
        self.tensors += [leaf for _, leaf in walk(node) if isinstance(leaf, Tensor)]

    def tensor(self, live: torch.Tensor, node: StateNode, path: str) -> None:
        """Fill ``live`` in place."""
        if not self.fits(live, node, path) or not isinstance(node, Tensor):
            return
        chunks = getattr(node.source, "chunks", None)
        memory = (live.device, live.data_ptr(), live.stride(), live.shape)
        first, known = self._memory.setdefault(memory, (path, chunks)) if live.numel() else (path, chunks)
        if known != chunks:
            self.problem(f"{path} and {first} share memory here, but their stored values differ", partial=False)
            return
        self.read(node)
        self.actions.append(lambda: fill(live, node))

    def fits(self, live: torch.Tensor, node: StateNode, path: str) -> bool:
        """Same dtype, shape and quantizer; otherwise a problem that names both sides."""
        if not isinstance(node, Tensor):
            self.problem(f"{path}: the snapshot holds a plain value, the live object a tensor")
            return False
        try:
            check_supported(live, path)
        except UnsupportedState as error:
            self.problem(str(error), partial=False)
            return False
        here, there = (dtype_name(live.dtype), tuple(live.shape)), (node.dtype, node.shape)
        if here != there:
            self.problem(f"{path}: {_described(*there)} in the snapshot, {_described(*here)} in the live object")
            return False
        if node.quantizer != (tensor_leaf(live, path).quantizer if live.is_quantized else None):
            self.problem(f"{path}: quantised by other scales in the snapshot than in the live object")
            return False
        if any(stride == 0 and size > 1 for stride, size in zip(live.stride(), live.shape, strict=True)):
            self.problem(f"{path}: the live tensor is expanded; its elements share memory. Make it contiguous")
            return False
        return True


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def match(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Add to ``plan`` what brings ``live`` to the stored state of ``node``."""
    from ciuic.state.optimizer_matching import match_optimizer

    text = path_text(path)
    if isinstance(live, torch.nn.Module):
        match_module(plan, unwrap(live), node, path)
    elif isinstance(live, torch.optim.Optimizer):
        match_optimizer(plan, live, node, path)
    elif has_state(live):
        match_object(plan, live, node, path)
    elif isinstance(live, torch.Tensor):
        if plan.wanted(text):
            plan.tensor(live.detach(), node, text)
    elif isinstance(live, numpy.ndarray):
        if plan.wanted(text):
            match_array(plan, live, node, text)
    elif isinstance(live, (dict, list, tuple)):
        match_container(plan, live, node, path)
    else:
        plan.problem(
            f"{text}: a {type(live).__name__} cannot be restored in place; read it with "
            f"Repo.load(…), under {text.split('/')[0]!r}"
        )


def match_module(plan: Plan, module: torch.nn.Module, node: StateNode, path: tuple[Key, ...]) -> None:
    """Parameters and buffers are filled where they are; the rest goes through the module's ``load_state_dict``."""
    if not isinstance(node, Container) or any(not isinstance(key, str) for key, _ in node.items):
        plan.problem(f"{path_text(path)}: the live object is a module, the snapshot holds something else")
        return
    own_names = {plain_name(name): name for name in module.state_dict()}
    state = {plain_name(name): value for name, value in module.state_dict().items()}
    stored = dict(node.items)
    memory = {_memory(tensor) for tensor in (*module.parameters(), *module.buffers())} | {None}
    others: dict[str, tuple[StateNode, tuple[Key, ...]]] = {}
    for name, value in state.items():
        text = path_text((*path, name))
        if not plan.wanted(text):
            continue
        if name not in stored:
            plan.problem(f"{text}: not in the snapshot; the live object has {_live_described(value)}")
        elif name.split(".")[-1] == EXTRA_STATE or not isinstance(value, torch.Tensor):
            others[own_names[name]] = stored[name], (*path[1:], name)
            plan.read(stored[name])
        elif _memory(value) in memory or not value.numel():
            plan.tensor(value, stored[name], text)
        elif plan.fits(value, stored[name], text):
            others[own_names[name]] = stored[name], (*path[1:], name)
            plan.read(stored[name])
    for key, child in stored.items():
        text = path_text((*path, key))
        if key not in state and plan.wanted(text):
            plan.problem(f"{text}: not in the live object; the snapshot has {_node_described(child)}")
    if others:
        plan.actions.append(lambda: _load_others(module, others))


def _memory(tensor: torch.Tensor) -> int | None:
    """Where its data begins; None for a tensor that has no memory of its own (lazy, sparse)."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, ValueError):
        return None


def _load_others(module: torch.nn.Module, others: dict[str, tuple[StateNode, tuple[Key, ...]]]) -> None:
    """Extra state and tensors that ``state_dict`` makes on the fly; the module's own are loaded onto themselves."""
    new = {name: to_live(node, path=path) for name, (node, path) in others.items()}
    module.load_state_dict({**module.state_dict(), **new})


def _live_described(value: Any) -> str:
    if not isinstance(value, torch.Tensor) or _memory(value) is None:
        return "a value"
    return _described(dtype_name(value.dtype), tuple(value.shape))


def _node_described(node: StateNode) -> str:
    return _described(node.dtype, node.shape) if isinstance(node, Tensor) else "a value"


def match_object(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Anything with ``load_state_dict``: it gets new objects, its tensors on the devices that it uses now."""
    text = path_text(path)
    if not plan.wanted(text):
        return
    if node == Value({}) and not live.state_dict():
        return  # a disabled GradScaler refuses the empty dict that it saved
    if isinstance(live, torch.amp.GradScaler) and live.is_enabled() == (node == Value({})):
        where = ("snapshot", "live object") if live.is_enabled() else ("live object", "snapshot")
        plan.problem(f"{text}: the scaler is disabled in the {where[0]} and enabled in the {where[1]}")
        return
    plan.read(node)

    def load() -> None:
        live.load_state_dict(_like(live.state_dict(), to_live(node, path=path[1:])))

    plan.actions.append(load)


def _like(now: Any, new: Any) -> Any:
    """``new`` with its tensors on the devices of those that stand at the same place in ``now``."""
    if isinstance(now, torch.Tensor) and isinstance(new, torch.Tensor):
        return new.to(now.device)
    if isinstance(now, dict) and isinstance(new, dict):
        for key in new:
            if key in now:
                new[key] = _like(now[key], new[key])
    elif isinstance(now, (list, tuple)) and isinstance(new, (list, tuple)) and len(now) == len(new):
        return type(new)([_like(before, after) for before, after in zip(now, new, strict=True)])
    return new


def match_container(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Named objects each on their own; a dict or list of plain values gets the stored content."""
    text = path_text(path)
    node = expand(node)
    if not isinstance(node, Container):
        plan.problem(f"{text}: the live object is a {type(live).__name__}, the snapshot holds something else")
        return
    if is_state_dict(live) and path[0] == "model":
        stored = dict(node.items)
        for name in sorted({*live, *(str(key) for key in stored)}):
            if name not in live or name not in stored:
                plan.problem(f"{text}/{name}: only in the {'snapshot' if name in stored else 'live object'}")
            elif plan.wanted(f"{text}/{name}"):
                plan.tensor(live[name].detach(), stored[name], f"{text}/{name}")
        return
    pairs = list(live.items()) if isinstance(live, dict) else list(enumerate(live))
    by_key = (pairs and path == ("extra",)) or any(_restorable(value) for _, value in pairs)
    if not by_key:
        _replace(plan, live, node, path)
        return
    for key, value in pairs:
        child = node.get(key)
        if child is None:
            plan.problem(f"{text}/{key}: not in the snapshot, which has {_keys(node)}")
        elif _restorable(value) or isinstance(value, (dict, list)):
            match(plan, value, child, (*path, key))
        elif plan.wanted(f"{text}/{key}"):
            _set_item(plan, live, key, child, path)
    if path in (("model",), ("optimizer",)):
        for key, _ in node.items:
            if key not in dict(pairs):
                plan.problem(f"{text}/{key}: in the snapshot, but not given")


def _restorable(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return any(_restorable(item) for item in (value.values() if isinstance(value, dict) else value))
    return has_state(value) or isinstance(value, (torch.Tensor, numpy.ndarray))


def _keys(node: Container) -> str:
    return ", ".join(str(key) for key, _ in node.items[:8]) or "nothing"


def _set_item(plan: Plan, live: Any, key: Key, child: StateNode, path: tuple[Key, ...]) -> None:
    """A plain value takes its place in the dict or list that holds it; a tuple cannot take another."""
    if isinstance(live, tuple):
        if not isinstance(child, Value) or child.value != live[int(key)]:
            plan.problem(f"{path_text((*path, key))}: a tuple cannot take another value. Use a list or a dict")
        return
    plan.read(child)
    plan.actions.append(lambda: live.__setitem__(key, to_live(child, path=(*path[1:], key))))


def match_array(plan: Plan, live: Any, node: StateNode, text: str) -> None:
    """A numpy array of the same dtype and shape is filled where it is."""
    here = f"{live.dtype} {list(live.shape)}"
    there = _node_described(node)
    if here != there:
        plan.problem(f"{text}: {there} in the snapshot, {here} in the live array")
    elif not live.flags.writeable:
        plan.problem(f"{text}: the live array is read-only")
    else:
        plan.read(node)
        plan.actions.append(lambda: numpy.copyto(live, numpy.asarray(to_live(node))))


def _replace(plan: Plan, live: Any, node: Container, path: tuple[Key, ...]) -> None:
    text = path_text(path)
    if not plan.wanted(text):
        return
    if isinstance(live, tuple) or isinstance(live, dict) == (node.kind in ("list", "tuple")):
        plan.problem(
            f"{text}: a {type(live).__name__} cannot take the snapshot's {node.kind}; read it with Repo.load(…)"
        )
        return
    plan.read(node)

    def replace() -> None:
        content = to_live(node, path=path[1:])
        live.clear()
        live.update(content) if isinstance(live, dict) else live.extend(content)

    plan.actions.append(replace)

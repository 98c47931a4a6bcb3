"""The arguments of ``commit`` → components and the completeness list."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.state_tree import Container, StateNode
from ciuic.state.gradients import pending_gradients
from ciuic.state.leaves import Capture, has_state, is_state_dict, to_tree
from ciuic.state.optimizers import parameter_names
from ciuic.state.rng import rng_contains, rng_tree


@dataclass(frozen=True)
class Captured:
    """State trees over live memory, by component, and what is in them by finer names."""

    components: dict[str, StateNode]
    contains: tuple[str, ...]


def capture_state(
    *,
    model: Any,
    optimizer: Any,
    scheduler: Any,
    scaler: Any,
    extra: Any,
    rng: bool,
    data: Any = None,
    in_place: Callable[[Any], Container | None] = lambda _value: None,
) -> Captured:
    """Read the state of everything given; tensors are not copied. UnsupportedState names what cannot be stored.

    ``data``: the position in the data, plain values and tensors. ``in_place``: see ``Capture``.
    """
    names = functools.cache(lambda: parameter_names(model))  # thousands of parameters take milliseconds
    components: dict[str, StateNode] = {}
    contains: list[str] = []
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    for name, value in objects.items():
        if value is None:
            continue
        check_objects(value, name)
        components[name] = to_tree(value, (name,), Capture(names, in_place))
        contains.append(name)
    if extra is not None:
        if not isinstance(extra, dict):
            raise UnsupportedState("extra: give a dict of names to values or objects, for example extra={'ema': ema}.")
        components["extra"] = to_tree(extra, ("extra",), Capture(names, in_place))
        contains += [f"extra.{key}" for key in extra]
    gradients = pending_gradients(optimizer, names)
    if gradients is not None:
        components["gradients"] = gradients
        contains.append("gradients")
    if rng:
        tree = rng_tree()
        components["rng"] = tree
        contains += rng_contains(tree)
    if data is not None:
        components["data"] = to_tree(data, ("data",), Capture())
        contains.append("data")
    return Captured(components, tuple(contains))


def check_objects(value: Any, path: str) -> None:
    """A component is an object with state, or a list or dict of them."""
    if has_state(value) or (is_state_dict(value) and path.startswith("model")):
        return
    if isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_objects(item, f"{path}/{key}")
        return
    raise UnsupportedState(
        f"{path}: a {type(value).__module__}.{type(value).__qualname__} has no state_dict and load_state_dict. "
        "Pass the object itself (or a list or dict of objects); plain values go into extra={…}."
    )

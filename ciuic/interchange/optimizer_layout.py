"""Optimizer state by parameter name, as ciuic stores it, and by index, as ``torch.optim`` does.

By name:  ``{"class": "AdamW", "state": {"layers.0.weight": {…}}, "param_groups": [{…, "params":
["layers.0.weight"]}]}`` By index: ``{"state": {0: {…}}, "param_groups": [{…, "params": [0], "param_names":
["layers.0.weight"]}]}``

``param_names`` is torch's own key (since 2.6); what we export always has it, so that an import finds the
names again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ciuic.errors import InvalidImport
from ciuic.state.optimizers import NamedState, index_layout

UNKNOWN_CLASS = "Optimizer"


def is_optimizer_state(state: Any) -> bool:
    """Does this look like the state of one optimizer, in either layout?"""
    return isinstance(state, Mapping) and isinstance(state.get("state"), Mapping) and "param_groups" in state


def to_index_layout(state: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Optimizer.load_state_dict`` takes."""
    layout = index_layout(NamedState(state["state"], state["param_groups"], state.get("other", {})))
    for group, named in zip(layout["param_groups"], state["param_groups"], strict=True):
        group["param_names"] = list(named["params"])
    return layout


def to_name_layout(state: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The inverse. Parameters without a name are named by position ("#0.3"), as in a commit without model.

    Raises InvalidImport for what no optimizer has.
    """
    names: dict[Any, str] = {}
    groups = []
    for params, named, group in _groups(state, file):
        names.update(zip(params, named, strict=True))
        groups.append({**{key: value for key, value in group.items() if key != "param_names"}, "params": named})
    if len(set(names.values())) < sum(len(group["params"]) for group in groups):
        raise InvalidImport(f"{file}: a parameter stands twice in its param_groups. Save the optimizer again.")
    slots = {names[index]: value for index, value in state["state"].items() if index in names}
    other = {index: value for index, value in state["state"].items() if index not in names}
    layout = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    if layout:
        other["layout"] = layout
    named_state = {"class": UNKNOWN_CLASS, "state": slots, "param_groups": groups}
    return {**named_state, "other": other} if other else named_state


def _groups(state: Mapping[str, Any], file: str) -> Iterator[tuple[list[Any], list[str], dict[str, Any]]]:
    """The indices, the names and the rest of each group."""
    groups = state["param_groups"]
    for number, group in enumerate(groups if isinstance(groups, list) else [None]):
        params = group.get("params") if isinstance(group, dict) else None
        if not isinstance(params, list) or not all(isinstance(index, (int, str)) for index in params):
            raise InvalidImport(f"{file}: its param_groups are not an optimizer's. Save the optimizer again.")
        named = group.get("param_names")
        if not isinstance(named, list) or len(named) != len(params) or not all(isinstance(name, str) for name in named):
            named = [f"#{number}.{index}" for index in range(len(params))]
        yield params, named, group

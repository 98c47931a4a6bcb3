"""How large the state will be that an optimizer makes in its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic.state.gradients import optimizers_in

USUAL_SLOTS = 2


def coming_bytes(optimizers: Any) -> int:
    """Bytes of state of the parameters that have none yet, for one optimizer or a (nested) list or dict of them."""
    return sum(
        _slots(type(optimizer).__name__, group) * parameter.numel() * parameter.element_size()
        for optimizer in optimizers_in(optimizers)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad and not optimizer.state.get(parameter)
    )


def _slots(name: str, group: Mapping[str, Any]) -> int:
    """Tensors of a parameter's size; for an optimizer that is not known, as many as most have."""
    if name == "SGD":
        return 1 if group.get("momentum") else 0
    if name == "RMSprop":
        return 1 + bool(group.get("momentum")) + bool(group.get("centered"))
    if name == "Adagrad":
        return 1
    return USUAL_SLOTS + bool(group.get("amsgrad"))

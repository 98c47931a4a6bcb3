"""The random number generators of a process: torch on the CPU and every accelerator, numpy, Python."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy
import torch

from ciuic.objects.state_tree import Container, Key, StateNode
from ciuic.state.leaves import Capture, to_live, to_tree

ACCELERATORS = ("cuda", "xpu", "mps")
logger = logging.getLogger("ciuic")


def _accelerator_states() -> dict[str, list[torch.Tensor]]:
    """Name → a state a device, of the accelerators in use. One that was never initialised has drawn nothing."""
    states: dict[str, list[torch.Tensor]] = {}
    for name in ("cuda", "xpu"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available() and module.is_initialized():
            states[name] = module.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = [torch.mps.get_rng_state()]
    return states


def rng_tree() -> Container:
    """The state of every generator, copied."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        **_accelerator_states(),
        "numpy": numpy.random.get_state(legacy=False),
        "python": random.getstate(),
    }
    items: list[tuple[Key, StateNode]] = [
        (name, to_tree(state, ("rng", name), Capture())) for name, state in states.items()
    ]
    return Container("dict", tuple(items))


def set_rng(node: Container) -> None:
    """Put every generator back that this machine has; an accelerator that it lacks is reported."""
    for key, child in node.items:
        state = to_live(child)
        if key == "torch":
            torch.set_rng_state(state)
        elif key == "numpy":
            numpy.random.set_state(state)
        elif key == "python":
            version, internal, gauss = state
            random.setstate((version, tuple(internal), gauss))
        else:
            _set_accelerator(str(key), state)


def _set_accelerator(name: str, states: list[torch.Tensor]) -> None:
    module = getattr(torch, name, None) if name in ACCELERATORS else None
    available = torch.backends.mps.is_available() if name == "mps" else module is not None and module.is_available()
    count = module.device_count() if available and module is not None else 0
    if len(states) != count:
        logger.warning("The snapshot has RNG states of %d %s devices; here are %d.", len(states), name, count)
    for index, state in enumerate(states[:count]):
        if name == "mps":
            torch.mps.set_rng_state(state)
        else:
            module.set_rng_state(state, index)  # type: ignore[union-attr]  # counted above


def rng_contains(node: Container) -> tuple[str, ...]:
    return tuple(f"rng.{key}" for key, _ in node.items)

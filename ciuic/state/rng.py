"""The random number generators of a process: torch on the CPU and every accelerator, numpy, Python."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping
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


def process_states() -> dict[str, Any]:
    """The state of every generator of this process, copied."""
    return {
        "torch": torch.get_rng_state(),
        **_accelerator_states(),
        "numpy": numpy.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def set_process_states(states: Mapping[str, Any]) -> None:
    """Put every generator back that this machine has; an accelerator that it lacks is reported."""
    for name, state in states.items():
        if name == "torch":
            torch.set_rng_state(state)
        elif name == "numpy":
            numpy.random.set_state(state)
        elif name == "python":
            version, internal, gauss = state
            random.setstate((version, tuple(internal), gauss))
        else:
            _set_accelerator(name, state)


def rng_tree() -> Container:
    """The state of every generator of this process, as a component."""
    items: list[tuple[Key, StateNode]] = [
        (name, to_tree(state, ("rng", name), Capture())) for name, state in process_states().items()
    ]
    return Container("dict", tuple(items))


def set_rng(node: Container) -> None:
    """Put every generator back that this machine has; an accelerator that it lacks is reported."""
    set_process_states({str(key): to_live(child) for key, child in node.items})


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


GENERATORS = (torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random)
"""The types of a generator that somebody holds for themselves."""


def generator_state(generator: Any) -> Any:
    """The state of one of GENERATORS, copied."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, numpy.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, numpy.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def set_generator_state(generator: Any, state: Any) -> None:
    """The way back from ``generator_state``."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, numpy.random.RandomState):
        generator.set_state(state)
    else:
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))

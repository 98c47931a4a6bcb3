"""What belongs to a run: live objects by name, as ``commit`` and ``restore`` take them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy
import torch

from ciuic.errors import StateMismatch, UnsupportedState
from ciuic.objects.ids import short
from ciuic.objects.plain import decode_plain, encode_plain
from ciuic.objects.snapshot import Snapshot
from ciuic.state.capture import check_objects
from ciuic.state.leaves import has_state
from ciuic.state.rng import GENERATORS, generator_state, set_generator_state

NAMED = ("model", "optimizer", "scheduler", "scaler")

logger = logging.getLogger("ciuic")


class Tracked:
    """The objects of a run. ``config``: plain values that every snapshot records."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.config: dict[str, Any] | None = None

    def add(self, objects: Mapping[str, Any]) -> None:
        """Take the objects in, those of a name that is known in place of the earlier one; UnsupportedState."""
        for name, value in objects.items():
            if name == "config":
                self.config = None if value is None else decode_plain(encode_plain(dict(value), "config"))
            elif value is None:
                self.objects.pop(name, None)
                self.extra.pop(name, None)
            elif name in NAMED:
                check_objects(value, name)
                self.objects[name] = value
            else:
                self.extra[name] = _restorable(value, name)

    def for_commit(self) -> dict[str, Any]:
        """The keywords of ``Repo.commit``."""
        details = dict(self.objects)
        if self.extra:
            details["extra"] = self.extra
        if self.config is not None:
            details["config"] = self.config
        return details

    def for_restore(self, snapshot: Snapshot) -> dict[str, Any]:
        """The keywords of ``Repo.restore``: what is tracked and in the snapshot; the log says what is only in one.

        StateMismatch without the model: a run with new weights would not be the same run.
        """
        held = set(snapshot.contains)
        extra = {name: value for name, value in self.extra.items() if f"extra.{name}" in held}
        here = {*self.objects, *(f"extra.{name}" for name in self.extra)}
        lacking = sorted(here - held)
        if "model" in lacking:
            raise StateMismatch(
                f"The snapshot {short(snapshot.id)} has no model, and a model is tracked. Resume from another snapshot "
                "(`ciuic checkout`), or bring in the weights with `ciuic import`.",
                ("model: the snapshot has none",),
            )
        if lacking:
            logger.warning("Not in the snapshot of step %s, and left as they are: %s.", snapshot.step, _listed(lacking))
        known = {*NAMED, *(name for name in held if name.startswith("extra."))}
        unused = sorted((held & known) - here)
        if unused:
            logger.warning("In the snapshot of step %s, and not tracked now: %s.", snapshot.step, _listed(unused))
        if not any(name.startswith("rng.") for name in held):
            logger.warning("The snapshot of step %s has no random generators: they stay as they are.", snapshot.step)
        objects = {name: value for name, value in self.objects.items() if name in held}
        return {**objects, "extra": extra} if extra else objects


def _listed(names: list[str]) -> str:
    return ", ".join(name.removeprefix("extra.") for name in names)


def _restorable(value: Any, name: str) -> Any:
    """What can be brought back where it is; a generator as an object with state."""
    if isinstance(value, GENERATORS):
        return GeneratorState(value)
    if has_state(value) or isinstance(value, (torch.Tensor, numpy.ndarray, dict, list)):
        return value
    raise UnsupportedState(
        f"{name}: a {type(value).__module__}.{type(value).__qualname__} cannot be restored in place. "
        "Track an object with state_dict and load_state_dict, or a dict that holds the value."
    )


class GeneratorState:
    """A generator that somebody holds for themselves, as an object with state."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": generator_state(self.generator)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_generator_state(self.generator, state["state"])

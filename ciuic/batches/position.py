"""The position in the data: what a snapshot says of it, and how it is read back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy

from ciuic.errors import PositionError
from ciuic.objects.state_tree import StateNode
from ciuic.state.leaves import to_live

COUNTS = ("next_step", "loop", "first_epoch", "epoch", "offset")


@dataclass(frozen=True)
class Position:
    """Where a run stands in its data.

    ``next_step``: the number of the next step. ``loop``: the number of the ``batches`` loop in the script, from 0;
    ``first_epoch``: the epoch that it began with. ``epoch``, ``offset``: batches of this epoch that the loop was
    given; ``length``: how many the epoch has, where the loader says so.
    ``generators``: of the process, as the epoch began, ``packed``; ``own``: those of the loader and its samplers, by
    name. At offset 0 the epoch has not begun: no ``generators``, and ``own`` as they are now.
    ``now``: in mid epoch, ``own`` as they are at this position, since another loader may draw from them, too; and
    ``ahead``: of how many batches the indices are drawn before they are asked for.
    ``loader``: the loader's own ``state`` at this position, where it has one, and ``by`` which kind of source.
    ``left``: the script has gone on behind the loop, so that what follows a complete one is in the snapshot.
    """

    next_step: int = 0
    loop: int = 0
    first_epoch: int = 0
    epoch: int = 0
    offset: int = 0
    length: int | None = None
    generators: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)
    ahead: int = 0
    loader: Any = None
    left: bool = False

    def to_plain(self) -> dict[str, Any]:
        """What a snapshot's component ``data`` is made of."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def stored_position(node: StateNode) -> Position:
    """The position in a snapshot's component ``data``; PositionError for anything else."""
    value = to_live(node)
    names = {each.name for each in fields(Position)}
    if not isinstance(value, dict) or not {*COUNTS} <= value.keys():
        raise _unknown()
    values = {name: item for name, item in value.items() if name in names}  # a later version may note more
    counts = [values[name] for name in COUNTS] + [values.get("length") or 0, values.get("ahead", 0)]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise _unknown()
    if not all(isinstance(values.get(name, {}), dict) for name in ("generators", "own", "now")):
        raise _unknown()
    if type(values.get("left", False)) is not bool:
        raise _unknown()
    loader = values.get("loader")
    if loader is not None and not (isinstance(loader, dict) and {"by", "state"} <= loader.keys()):
        raise _unknown()
    return Position(**values)


def _unknown() -> PositionError:
    return PositionError(
        "The snapshot's position in the data is not one that this version knows. Resume with the version that wrote "
        "it (`ciuic show`), or give up the position with `ciuic prune SNAPSHOT --component data --force`: an epoch "
        "begins anew then."
    )


def packed(states: dict[str, Any]) -> dict[str, Any]:
    """Python's 625 words as an array: a chunk that the next snapshot has in common, which a plain value is not."""
    version, words, gauss = states["python"]
    return {**states, "python": {"version": version, "words": numpy.array(words, dtype=numpy.int64), "gauss": gauss}}


def unpacked(states: dict[str, Any]) -> dict[str, Any]:
    """The way back from ``packed``."""
    if "python" not in states:
        return states
    python = states["python"]
    return {**states, "python": (python["version"], tuple(python["words"].tolist()), python["gauss"])}

"""The ``batches`` loops of a script, one after the other: which of them a run stands in, and where in it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ciuic.batches.loop import Loop
from ciuic.batches.position import Position, stored_position
from ciuic.errors import PositionError
from ciuic.objects.state_tree import StateNode

logger = logging.getLogger("ciuic")


class Loops:
    """``drawn``: the step of the batch that was given last, until it is ended; None outside of a loop.

    A loop is known by its number in the script, from 0. One that came before the position is over and gives nothing;
    the one of the position goes on from there; a later one begins an epoch. What the script does after a loop that is
    over, a schedule's step or a validation, it has done before: ``strayed`` says, when the next one has begun, that
    objects and generators are no longer as they were restored.
    """

    def __init__(self) -> None:
        self.running = False
        self.drawn: int | None = None
        self.strayed = False
        self._number = 0
        self._astray = False
        self._loop: Loop | None = None
        self._stored: Position | None = None

    def restored(self, node: StateNode | None, step: int | None, epoch: int | None) -> None:
        """A snapshot was restored. ``node``: its component ``data``; without it an epoch begins anew, of its number."""
        if node is None:
            logger.warning("The snapshot of step %s has no position in the data: an epoch begins anew.", step)
            at = Position(next_step=0 if step is None else step + 1, first_epoch=epoch or 0, epoch=epoch or 0)
        else:
            at = stored_position(node)
        if self._number:  # not at the start of the script: back to where this snapshot stood in its loop
            self._number = at.loop
        self._stored, self._loop, self._astray = at, None, False

    def begin(self, loader: Any, next_step: int, *, max_steps: int | None, max_epochs: int | None) -> Loop | None:
        """The script's next loop; None when it is over."""
        number, self._number = self._number, self._number + 1
        at = self._here() or Position(next_step=next_step)
        if at.loop > number:
            if not self._astray:  # once: a loop an epoch has as many as epochs
                logger.warning(
                    "Nothing to do: the run stands at step %d, in a later loop. What the script does between its loops "
                    "is done again; what is tracked is brought back after that.", at.next_step,
                )  # fmt: skip
            self._astray = True
            return None
        self.strayed = self._astray
        if at.loop < number:
            epoch = at.epoch + (at.offset > 0)
            at = Position(next_step=at.next_step, loop=number, first_epoch=epoch, epoch=epoch)
        self._loop = Loop(loader, replace(at, left=False), max_steps=max_steps, max_epochs=max_epochs)
        self._astray = at.left and self._loop.complete()
        self.running, self.drawn = True, None
        return self._loop

    def leave(self, loop: Loop) -> None:
        """The loop is over, unless another one has begun meanwhile: an exception keeps the one that it left alive."""
        if loop is self._loop:
            self.running, self.drawn = False, None

    def check_current(self, loop: Loop) -> None:
        """PositionError when another loop has begun inside of this one: there is one position in the data."""
        if loop is not self._loop:
            raise PositionError(
                "Another loop over `batches` has begun before this one had ended, and a run has one position in its "
                "data. Go through what is not trained on without `batches`: `for batch in loader`."
            )

    @property
    def epoch(self) -> int | None:
        """Of the batch that was given last, in a loop."""
        return self._loop.epoch if self.running and self._loop is not None else None

    def position(self, next_step: int) -> dict[str, Any] | None:
        """What a snapshot says of it; None before any loop. ``next_step`` counts where no loop does."""
        here = self._here()
        if here is None:
            return None
        if not self.running:
            here = replace(here, next_step=next_step, left=here.left or self._loop is not None)
        return here.to_plain()

    def _here(self) -> Position | None:
        return self._stored if self._loop is None else self._loop.position()

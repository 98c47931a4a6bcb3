"""The batches of a run over one loader, epoch after epoch, from a position on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ciuic.batches.generators import set_states, states_of
from ciuic.batches.position import Position, packed, unpacked
from ciuic.batches.sources import drawn_ahead, length_of, set_epoch, source_of
from ciuic.errors import PositionError
from ciuic.state.rng import process_states, set_process_states

logger = logging.getLogger("ciuic")


class Loop:
    """Gives (step, batch) from ``start`` on, until ``max_steps`` or ``max_epochs`` of the whole run are reached.

    Without either: to the end of the epoch that the loop began with.
    """

    def __init__(self, loader: Any, start: Position, *, max_steps: int | None, max_epochs: int | None) -> None:
        for name, most in (("max_steps", max_steps), ("max_epochs", max_epochs)):
            if most is not None and most < 0:
                raise ValueError(f"{name} is a number of {name[4:]}, at least 0")
        self._loader = loader
        self._start = start
        self._source = source_of(loader)
        self._max_steps = max_steps
        self._max_epochs = start.first_epoch + 1 if max_steps is None and max_epochs is None else max_epochs
        self._position = start  # with what an epoch begins with
        self._offset = start.offset
        self.next_step = start.next_step

    def complete(self) -> bool:
        """Whether there is no batch left to give, as far as the counts tell."""
        if self._max_steps is not None and self.next_step >= self._max_steps:
            return True
        return self._max_epochs is not None and self._position.epoch >= self._max_epochs

    @property
    def epoch(self) -> int:
        return self._position.epoch

    def position(self) -> Position:
        """After the batch that was given last: all that it takes to go on with the next one."""
        own = states_of(self._source.own)
        here = replace(self._position, next_step=self.next_step, offset=self._offset)
        here = replace(here, now=own, ahead=drawn_ahead(self._loader)) if self._offset else replace(here, own=own)
        state = self._source.state(self._offset > 0)
        return replace(here, loader=None if state is None else {"by": type(self._source).__name__, "state": state})

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while not self.complete():
            for batch in self._begin():
                step = self.next_step
                self.next_step, self._offset = step + 1, self._offset + 1
                yield step, batch
                if self.complete():
                    return
            if not self._offset:
                raise PositionError(
                    f"The loader has no batch in epoch {self.epoch}. Give it data, or a smaller batch size when it "
                    "drops the last one."
                )
            here = self._position
            self._offset = 0
            self._position = Position(loop=here.loop, first_epoch=here.first_epoch, epoch=here.epoch + 1)

    def _begin(self) -> Iterator[Any]:
        """The rest of the epoch.

        1. The generators are set as they were when the epoch began; 2. the loader begins it, and passes over what was
        drawn; 3. all of them are set as the snapshot has them, which the process's were before this.
        """
        here = self._position
        set_epoch(self._loader, here.epoch)
        length = length_of(self._loader)
        if here is self._start and here.own:
            set_states(self._source.own, here.own)
        state = here.loader["state"] if here.loader and here.loader["by"] == type(self._source).__name__ else None
        if not self._offset:
            self._position = replace(
                here, length=length, generators=packed(process_states()), own=states_of(self._source.own), loader=None
            )
            return self._source.begin(here.epoch, 0, state)
        if here.length is not None and length != here.length:
            logger.warning(
                "The loader has %s batches an epoch, and had %d at the snapshot: the position is a number of batches.",
                length, here.length,
            )  # fmt: skip
        before = process_states()
        set_process_states(unpacked(here.generators))
        try:
            batches = self._source.begin(here.epoch, self._offset, state)
            if here.ahead == drawn_ahead(self._loader):  # what is now drawn, was drawn then
                set_states(self._source.own, here.now)
            return batches
        finally:
            set_process_states(before)

"""The boundary before an exception: set aside in each step, saved when the run ends with one."""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.triggers.numbers import Metrics, readable

if TYPE_CHECKING:
    from ciuic.capture.boundary import Boundaries

OBJECTS = ("model", "optimizer", "scheduler", "scaler", "extra", "data")
DETAILS = ("epoch", "metrics", "config")

RESERVE_BYTES = 64 << 20
"""Of address space, never written to: what a commit needs where a limit of memory has been reached."""

logger = logging.getLogger("ciuic")


@dataclass(frozen=True)
class _Aside:
    """What a snapshot of the newest boundary would say."""

    step: int
    contains: tuple[str, ...]
    details: Mapping[str, Any]


class LastBoundary:
    """The newest boundary of a run. ``commit``: ``Repo.commit_components``."""

    def __init__(self, commit: Callable[..., Snapshot]) -> None:
        self._commit = commit
        self._boundaries: Boundaries | None = None
        self._aside: _Aside | None = None
        self._reserve: mmap.mmap | None = None
        self._failures = 0
        self._next_try = 0  # at this step or after it

    def set_aside(self, step: int, given: Mapping[str, Any]) -> None:
        """What belongs to ``given`` (the keywords of ``Repo.commit``) and may change before the next optimizer step is
        copied; the rest is looked after. What goes wrong is logged, harms nothing, and is tried again after 2, 4, 8, …
        steps."""
        self._aside = None
        if step < self._next_try:
            return
        try:
            from ciuic.capture.boundary import Boundaries

            if self._boundaries is None:
                self._boundaries = Boundaries()
                with contextlib.suppress(OSError):  # so short of memory already
                    self._reserve = mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            objects = {name: given.get(name) for name in OBJECTS}
            boundary = self._boundaries.set_aside(objects, rng=given.get("rng", True))
            self._aside = _Aside(step, boundary.contains, _kept(given))
        except Exception as error:  # memory for example, of which there may be little
            self._failures += 1
            self._next_try = step + 2**self._failures
            logger.warning(
                "Step %d could not be set aside for an exception's snapshot: %r. The next to be is step %d.",
                step, error, self._next_try,
            )  # fmt: skip

    def saved(self) -> None:
        """A snapshot was taken at this boundary: there is no need to set it aside."""
        self._aside = None
        if self._boundaries is not None:
            self._boundaries.newest = None

    def save(self, message: str) -> Snapshot | None:
        """Save the newest boundary, durable on return, or say why not; never raises an ``Exception``."""
        aside, self._aside = self._aside, None
        boundary = None if self._boundaries is None else self._boundaries.newest
        if aside is None or boundary is None:
            return None
        self._give_back()
        try:
            why_not = boundary.why_not()
            if why_not is not None:
                logger.warning(
                    "The end of step %d cannot be saved: %s. The newest snapshot before it stands.", aside.step, why_not
                )
                return None
            logger.warning("Saving the end of step %d, %s.", aside.step, message)
            details = {**aside.details, "metrics": readable(Metrics(aside.details.get("metrics", {})))}
            snapshot = self._commit(boundary.components(), aside.contains, step=aside.step, message=message, **details)
        except Exception as error:  # a state_dict of somebody else's, a disk, memory
            reason = str(error) or repr(error)
            logger.error("Step %d was not saved: %s The newest snapshot before it stands.", aside.step, reason)
            return None
        logger.warning("Saved step %d as %s.", aside.step, short(snapshot.id))
        return snapshot

    def _give_back(self) -> None:
        """The memory that was kept for a commit."""
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            reserve.close()

    def close(self) -> None:
        """Nothing is set aside any more."""
        self._give_back()
        self._aside = None
        boundaries, self._boundaries = self._boundaries, None
        if boundaries is not None:
            boundaries.close()


def _kept(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a snapshot says besides its state. A metric's tensor without the graph that it comes from."""
    details = {name: given[name] for name in DETAILS if given.get(name) is not None}
    if "metrics" in details:
        details["metrics"] = {
            name: value.detach() if hasattr(value, "detach") else value for name, value in details["metrics"].items()
        }
    return details

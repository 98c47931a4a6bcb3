"""What to keep: small policies over what ``log`` tells. Pure: no file, no clock.

A policy sees one *line* at a time: the snapshots of a branch that still have their state, oldest first. Each has a
``text``, such as "keep-last=20": what config.toml, the command line and the writer process know it by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from ciuic.amounts import size_text, span_text
from ciuic.objects.snapshot import Snapshot

Line: TypeAlias = Sequence[Snapshot]
Mode = Literal["min", "max"]
MODES = ("min", "max")


class Policy(Protocol):
    """Any policy."""

    @property
    def text(self) -> str: ...


class KeepPolicy(Policy, Protocol):
    """Says which snapshots of a line stay. One that any policy keeps is kept."""

    def keeps(self, line: Line) -> Iterable[Snapshot]: ...


def _positive(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} is a whole number, at least 1, not {value!r}")


@dataclass(frozen=True)
class KeepLast:
    """The newest ``count`` snapshots of each branch."""

    count: int

    def __post_init__(self) -> None:
        _positive("keep-last", self.count)

    @property
    def text(self) -> str:
        return f"keep-last={self.count}"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        return line[-self.count :]


@dataclass(frozen=True)
class KeepEvery:
    """The first snapshot after each ``steps`` completed steps: 0, 999 or 1000, 1999 or 2000, … for 1000."""

    steps: int

    def __post_init__(self) -> None:
        _positive("keep-every", self.steps)

    @property
    def text(self) -> str:
        return f"keep-every={self.steps}"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        first: dict[int, Snapshot] = {}
        for snapshot in line:
            if snapshot.step is not None:
                first.setdefault((snapshot.step + 1) // self.steps, snapshot)
        return first.values()


def _newest_of_each(line: Line, count: int, period: Callable[[datetime], object]) -> Iterable[Snapshot]:
    newest: dict[object, Snapshot] = {}
    for snapshot in reversed(line):
        newest.setdefault(period(snapshot.timestamp), snapshot)
        if len(newest) > count:  # the first of one period too many
            newest.popitem()
            break
    return newest.values()


@dataclass(frozen=True)
class KeepHourly:
    """The newest snapshot of each of the last ``count`` hours (UTC) that have one."""

    count: int

    def __post_init__(self) -> None:
        _positive("keep-hourly", self.count)

    @property
    def text(self) -> str:
        return f"keep-hourly={self.count}"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        return _newest_of_each(line, self.count, lambda time: (time.date(), time.hour))


@dataclass(frozen=True)
class KeepDaily:
    """The newest snapshot of each of the last ``count`` days (UTC) that have one."""

    count: int

    def __post_init__(self) -> None:
        _positive("keep-daily", self.count)

    @property
    def text(self) -> str:
        return f"keep-daily={self.count}"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        return _newest_of_each(line, self.count, lambda time: time.date())


@dataclass(frozen=True)
class KeepBest:
    """The ``count`` snapshots of each branch with the smallest (or largest) ``metric``; of equals the older ones."""

    count: int
    metric: str = "loss"
    mode: Mode = "min"

    def __post_init__(self) -> None:
        _positive("keep-best", self.count)
        if self.mode not in MODES or not self.metric:
            raise ValueError(f"keep-best names a metric, and min or max, not {self.metric!r} and {self.mode!r}")

    @property
    def text(self) -> str:
        return f"keep-best={self.metric}:{self.count}:{self.mode}"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        sign = 1.0 if self.mode == "min" else -1.0
        measured = [each for each in line if not math.isnan(each.metrics.get(self.metric, math.nan))]
        return sorted(measured, key=lambda each: sign * each.metrics[self.metric])[: self.count]


@dataclass(frozen=True)
class KeepTagged:
    """Nothing beyond what is always kept: tags, branches, HEAD. Alone: everything else goes."""

    @property
    def text(self) -> str:
        return "keep-tagged"

    def keeps(self, line: Line) -> Iterable[Snapshot]:
        return ()


@dataclass(frozen=True)
class SizeBudget:
    """The repository takes at most so many bytes, and a tenth more between two collections.

    What no keep-policy keeps has gone before; then goes what the fewest of them keep, the oldest first.
    """

    nbytes: int

    def __post_init__(self) -> None:
        _positive("size-budget", self.nbytes)

    @property
    def text(self) -> str:
        return f"size-budget={size_text(self.nbytes)}"


@dataclass(frozen=True)
class DropComponents:
    """Snapshots past an age lose these components and keep the others. One of the ages is given:

    ``snapshots``: all but the newest so many of a branch; ``steps``: more than so many steps before the branch's last;
    ``seconds``: more than so long before the newest snapshot of all, never before now.
    """

    components: tuple[str, ...]
    snapshots: int | None = None
    steps: int | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", tuple(sorted(set(self.components))))
        ages = [age for age in (self.snapshots, self.steps, self.seconds) if age is not None]
        if len(ages) != 1:
            raise ValueError("drop takes one age: snapshots, steps or seconds")
        _positive("the age of drop", ages[0])
        if not self.components or not all(name and not set(name) & set("+:*") for name in self.components):
            raise ValueError(f"drop names components, such as optimizer, not {self.components!r}")

    @property
    def text(self) -> str:
        names = "+".join(self.components)
        if self.snapshots is not None:
            return f"drop={names}:{self.snapshots}"
        return f"drop={names}:{self.steps}steps" if self.seconds is None else f"drop={names}:{span_text(self.seconds)}"

    def drops(self, line: Line, newest: datetime) -> Iterable[Snapshot]:
        """Those of a line that are old enough; ``newest``: the time of the newest snapshot of all."""
        if self.snapshots is not None:
            return line[: -self.snapshots]
        if self.steps is not None:
            last = max((each.step for each in line if each.step is not None), default=0)
            return [each for each in line if each.step is not None and each.step < last - self.steps]
        age = timedelta(seconds=self.seconds or 0)
        return [each for each in line if newest - each.timestamp > age]


AnyPolicy: TypeAlias = (
    "KeepLast | KeepEvery | KeepHourly | KeepDaily | KeepBest | KeepTagged | SizeBudget | DropComponents"
)

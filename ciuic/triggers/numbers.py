"""Metrics as they were given, made numbers only when somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.plain import number_of

logger = logging.getLogger("ciuic")


class Metrics(Mapping[str, float]):
    """Name → number. A value that is a tensor on an accelerator waits for the device once, when it is first read.

    None is a metric that was not given, at a step without an evaluation for example.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._numbers: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        """The number; UnsupportedState, naming the metric, if it is none."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = number_of(self._given[name], f"metrics/{name}")
        return number

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def readable(metrics: Mapping[str, float]) -> dict[str, float]:
    """All of them, read, but for those that are no numbers, which the log names: a state is worth more."""
    found = {}
    for name in metrics:
        try:
            found[name] = metrics[name]
        except UnsupportedState as error:
            logger.warning("The snapshot goes without a metric. %s", error)
    return found

"""Metrics as they were given, made numbers only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ciuic.objects.plain import number_of


class Metrics(Mapping[str, float]):
    """Name → number. A value that is a tensor on an accelerator waits for the device once, when it is first read."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
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

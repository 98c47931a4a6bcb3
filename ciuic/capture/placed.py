"""Where a tensor's bytes lie in a slot of shared memory. Knows no torch: the writer process imports it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placed:
    """The TensorSource of a staged tensor: row-major bytes ``[offset, offset + nbytes)`` of its slot."""

    offset: int
    nbytes: int
    stable = True

    def read(self, start: int, stop: int) -> Any:
        raise TypeError("a placed tensor is read through the slot's mapping, in the writer")

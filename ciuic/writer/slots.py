"""The trainer's slots, mapped for reading."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable


class Slots:
    """Mappings by the trainer's key, made at the first use and kept until the trainer lets go of them."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}
        self._views: dict[int, memoryview] = {}

    def receive(self, key: int, descriptor: int) -> None:
        """The memory behind a key; takes the descriptor over."""
        self.drop([key])
        self._descriptors[key] = descriptor

    def view(self, key: int, size: int) -> memoryview:
        """The first ``size`` bytes, read-only. MemoryError when there is no room in the address space."""
        view = self._views.get(key)
        if view is None:
            descriptor = self._descriptors[key]
            whole = os.fstat(descriptor).st_size
            try:
                view = memoryview(mmap.mmap(descriptor, whole, prot=mmap.PROT_READ)) if whole else memoryview(b"")
            except OSError as error:
                raise MemoryError(f"a slot of {whole} bytes cannot be mapped") from error
            os.close(self._descriptors.pop(key))
            self._views[key] = view
        if size > len(view):
            raise ValueError("the slot is smaller than its trainer says")
        return view[:size]

    def drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._views.pop(key, None)
            if key in self._descriptors:
                os.close(self._descriptors.pop(key))

"""The packs that a store has open: so many at a time, and none between two views that no reader holds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from ciuic.store.pack import Footer, Pack

OPEN_PACKS = 128


class OpenPacks:
    """Packs by name, opened when they are asked for. Used by several threads."""

    def __init__(self, opened: Callable[[str, Footer | None], Pack]) -> None:
        """``opened``: opens a pack, whose footer may be known."""
        self._opened = opened
        self._packs: OrderedDict[str, Pack] = OrderedDict()
        self._footers: OrderedDict[str, Footer] = OrderedDict()  # of packs that were open in the last view
        self._guard = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._packs

    def __getitem__(self, name: str) -> Pack:
        """The open pack; FileNotFoundError when it is gone."""
        with self._guard:
            pack = self._packs.get(name)
            if pack is not None:
                self._packs.move_to_end(name)
                return pack
            footer = self._footers.get(name)
        # Readers that hold it have one of their own: a weak reference may revive a pack whose file is being closed.
        pack = self._opened(name, footer)
        with self._guard:
            self._packs[name] = pack
            while len(self._packs) > OPEN_PACKS:
                self._packs.popitem(last=False)
        return pack

    def let_go(self) -> None:
        """At the end of a view close the packs that no reader holds: another process's sweep shall free their space."""
        with self._guard:
            for name, pack in self._packs.items():
                if pack.has_footer:
                    self._footers[name] = pack.footer
                    self._footers.move_to_end(name)
            while len(self._footers) > OPEN_PACKS:
                self._footers.popitem(last=False)
            self._packs.clear()

    def close(self, name: str) -> None:
        """Open the pack anew next time: a damaged one may be replaced by an intact one of its name."""
        with self._guard:
            self._packs.pop(name, None)
            self._footers.pop(name, None)

    def clear(self) -> None:
        """A sweep may have replaced any of them."""
        with self._guard:
            self._packs.clear()
            self._footers.clear()

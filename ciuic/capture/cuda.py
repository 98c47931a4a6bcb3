"""Copies from CUDA devices: on a stream of their own, into pinned memory, fenced by events and not by the host."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ciuic.capture.placed import Placed
from ciuic.capture.shared_memory import Mapping

logger = logging.getLogger("ciuic")
_cuda: Any = torch.cuda
_streams: dict[torch.device, Any] = {}
_pinned: weakref.WeakKeyDictionary[Mapping, bool] = weakref.WeakKeyDictionary()


def pin(mapping: Mapping) -> None:
    """Lock the mapping's pages, so that the device writes to them by itself. Without it copies are right but slow."""
    if mapping not in _pinned:
        status = _cuda.cudart().cudaHostRegister(mapping.address, mapping.size, 0)
        _pinned[mapping] = int(status) == 0
        mapping_address = mapping.address
        if _pinned[mapping]:
            mapping.before_close.append(lambda: _cuda.cudart().cudaHostUnregister(mapping_address))
        else:
            logger.warning("The snapshot memory could not be pinned (CUDA error %d): copies are slower.", int(status))
            with contextlib.suppress(RuntimeError):  # the next check of a launch takes the error, and must be ours
                torch.zeros(1, device="cuda")


class Move(Protocol):
    """A tensor and its place."""

    @property
    def tensor(self) -> Any: ...

    @property
    def place(self) -> Placed: ...


class CudaCopies:
    """Device-to-host copies of one snapshot, ordered on a side stream of each device."""

    def __init__(self, moves: Sequence[tuple[Move, bool]], mapping: Mapping) -> None:
        """``moves``: what to copy where, and whether only an optimizer's step changes it."""
        pin(mapping)
        self._moves = moves  # kept, so that the tensors' memory is not given to others
        self._versions = [move.tensor._version if later else None for move, later in moves]
        self._torn: set[int] = set()
        self._checked = False
        self._guard = threading.Lock()
        self._events: list[tuple[torch.device, Any]] = []
        slot = torch.from_numpy(mapping.bytes)
        try:
            self._order(moves, slot)
        except BaseException:
            self.drain()
            raise

    def _order(self, moves: Sequence[tuple[Move, bool]], slot: torch.Tensor) -> None:
        for device in {move.tensor.device for move, _ in moves}:
            current, side = torch.cuda.current_stream(device), _stream(device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for later in (False, True):
                    for move, ordered in moves:
                        tensor = move.tensor
                        if tensor.device == device and ordered == later:
                            start = move.place.offset
                            target = slot[start : start + move.place.nbytes].view(tensor.dtype).view(tensor.shape)
                            target.copy_(tensor, non_blocking=True)
                    event = _cuda.Event()
                    event.record(side)
                    if later:
                        self._events.append((device, event))
                    else:  # what may change anywhere: nothing that is ordered from now on runs before its copy
                        current.wait_event(event)

    def drain(self) -> None:
        """Nothing writes to the slot any more on return."""
        for device in {move.tensor.device for move, _ in self._moves}:
            _stream(device).synchronize()

    def hold_stream(self) -> None:
        """What is ordered from now on runs after the copies; the host does not wait."""
        self._check()
        for device, event in self._events:
            torch.cuda.current_stream(device).wait_event(event)

    def finish(self) -> list[Any]:
        """Wait until the bytes are in the slot; what was changed too early."""
        for _, event in self._events:
            event.synchronize()
        self._check()
        return [self._moves[index][0] for index in sorted(self._torn)]

    def _check(self) -> None:
        """Compare the version counters once: at the first step, which moves them rightly, or at the end."""
        with self._guard:
            if not self._checked:
                self._checked = True
                pairs = enumerate(zip(self._moves, self._versions, strict=True))
                self._torn |= {
                    index
                    for index, ((move, _), version) in pairs
                    if version is not None and move.tensor._version != version
                }


def _stream(device: torch.device) -> Any:
    if device not in _streams:
        _streams[device] = _cuda.Stream(device)
    return _streams[device]

"""One staged copy: what may change anywhere is copied in the call, the rest while forward and backward run."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

import torch

from ciuic.capture import fence
from ciuic.capture.arena import Slot
from ciuic.capture.cuda import CudaCopies
from ciuic.capture.placed import Placed
from ciuic.capture.samples import Samples
from ciuic.errors import TornSnapshot
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, path_text, walk
from ciuic.state.tensors import LiveTensor

ALIGNMENT = 64
SMALL_BYTES = 4096
"""Up to this size ordering a copy costs more than making it."""
PIECE_BYTES = 16 << 20


class Item:
    """A tensor to copy. ``tensor``: the live one, None for a source of another kind.

    ``memory_at``: where its bytes lie on the CPU without a gap, 0 elsewhere. ``row_major``: in row-major order there.
    """

    __slots__ = ("leaf", "memory_at", "place", "row_major", "tensor")

    def __init__(self, leaf: Tensor, place: Placed) -> None:
        self.leaf = leaf
        self.place = place
        self.tensor: torch.Tensor | None = None
        self.memory_at = 0
        self.row_major = False

    @property
    def memory(self) -> tuple[int, int]:
        """What the tensor is known by at the next snapshot."""
        return 0 if self.tensor is None else self.tensor.data_ptr(), self.place.nbytes

    def is_same_memory(self, other: Item) -> bool:
        """For two that begin at one address: whether their row-major bytes are the same."""
        mine, theirs = self.tensor, other.tensor
        if mine is None or theirs is None or self.place.nbytes != other.place.nbytes or mine.device != theirs.device:
            return False
        return (self.row_major and other.row_major) or (mine.shape, mine.stride(), mine.dtype) == (
            theirs.shape, theirs.stride(), theirs.dtype,
        )  # fmt: skip


class Layout:
    """Where each tensor of a state tree goes in a slot; tensors that are the same memory share a place."""

    def __init__(self, components: Mapping[str, StateNode]) -> None:
        self.places: dict[int, Placed] = {}  # by id of the leaf, which the tree keeps alive
        self.items: list[Item] = []  # one for each place
        self.size = 0
        self.on_cuda = False
        holders: dict[int, list[Item]] = {}  # by address
        stack: list[StateNode] = list(components.values())
        while stack:
            node = stack.pop()
            if isinstance(node, Container):
                stack += [child for _, child in node.items]
            elif isinstance(node, Tensor):
                self._add(node, holders)

    def _add(self, leaf: Tensor, holders: dict[int, list[Item]]) -> None:
        source = leaf.source
        nbytes = source.nbytes
        item = Item(leaf, Placed(self.size, nbytes))
        if isinstance(source, LiveTensor) and nbytes:
            item.tensor = tensor = source.tensor
            if not tensor.is_cpu:
                self.on_cuda = self.on_cuda or tensor.is_cuda
            elif source.dense or has_no_gaps(tensor):
                item.memory_at = source.address
                item.row_major = source.dense
            held = holders.get(source.address)
            if held is None:
                holders[source.address] = [item]
            else:
                for other in held:
                    if other.is_same_memory(item):
                        self.places[id(leaf)] = other.place
                        return
                held.append(item)
        self.places[id(leaf)] = item.place
        self.size += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self.items.append(item)

    def placed(self, node: StateNode) -> StateNode:
        """The same tree over places."""
        if isinstance(node, Tensor):
            return replace(node, source=self.places[id(node)])
        if isinstance(node, Container):
            return Container(node.kind, tuple((key, self.placed(child)) for key, child in node.items))
        return node


def has_no_gaps(tensor: torch.Tensor) -> bool:
    """Whether the elements fill a stretch of memory, in whatever order: channels last, or a transposed matrix."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()


class Copy:
    """The copy of one state tree into one slot.

    The constructor has copied what may change anywhere when it returns; ``run`` copies the rest, in another thread.
    Until then the caller keeps the fence up by ``fence.register``.
    """

    def __init__(self, layout: Layout, components: Mapping[str, StateNode], ordered: Set[int], slot: Slot) -> None:
        """``ordered``: ids of the leaves that change only in an optimizer's step."""
        assert slot.mapping is not None
        self.layout = layout
        self.components = components
        self.slot = slot
        self.fence_seconds = 0.0
        self.copy_seconds = 0.0
        self.torn: list[Item] = []
        self._mapping = slot.mapping
        self._done = threading.Event()
        self._held_since: float | None = None
        self._later: list[Item] = []
        start = time.perf_counter()
        self._cuda: CudaCopies | None = None
        try:
            on_cuda = self._copy_at_once(ordered)
            if on_cuda:
                self._cuda = CudaCopies([(item, id(item.leaf) in ordered) for item in on_cuda], slot.mapping)
            self._versions = [item.tensor._version for item in self._later if item.tensor is not None]
            self._samples = Samples(
                [item.memory_at for item in self._later], [item.place.nbytes for item in self._later]
            )
        except BaseException:
            self.give_up()
            raise
        self.copy_seconds += time.perf_counter() - start

    def _copy_at_once(self, ordered: Set[int]) -> list[Item]:
        """Copy what may change anywhere, put aside what may not; returns what a device has to copy."""
        on_cuda = []
        for item in self.layout.items:
            if item.tensor is not None and item.tensor.is_cuda and not item.leaf.quantizer:
                on_cuda.append(item)
            elif item.memory_at and item.place.nbytes > SMALL_BYTES and id(item.leaf) in ordered:
                self._later.append(item)
            else:
                self._copy(item)
        return on_cuda

    # The fence's side

    def hold_step(self) -> None:
        if self._cuda is not None:
            self._cuda.hold_stream()
        if not self._later or self._done.is_set():
            return
        start = time.perf_counter()
        if self._held_since is None:
            self._held_since = start
        self._done.wait()

    def wait(self) -> None:
        self._done.wait()

    # The copying thread's side

    def run(self) -> None:
        """Copy what was ordered, let go of the fence; TornSnapshot when something changed meanwhile."""
        start = time.perf_counter()
        try:
            for index, (item, version) in enumerate(zip(self._later, self._versions, strict=True)):
                self._copy(item)
                # A copy in row-major order has the sampled places where the tensor has them; another has not.
                at = self._mapping.address + item.place.offset if item.row_major else item.memory_at
                changed = item.tensor is not None and item.tensor._version != version
                if changed or not self._samples.same(index, at):
                    self.torn.append(item)
            if self._cuda is not None:
                self.torn += self._cuda.finish()
            self._mapping.mark_ready(self.layout.size)
        finally:
            now = time.perf_counter()
            self.copy_seconds += now - start
            if self._held_since is not None:
                self.fence_seconds = now - self._held_since
            fence.release(self)
            self._done.set()
        if self.torn:
            raise TornSnapshot(
                f"{', '.join(self._names(self.torn[:3]))}{', …' if len(self.torn) > 3 else ''} changed while being "
                "copied, outside an optimizer's step. The copy was dropped; the next snapshot copies "
                f"{'it' if len(self.torn) == 1 else 'them'} at once. Call fence() before changing state by hand."
            )

    def give_up(self) -> None:
        """The copy will not be made. On return nothing writes to the slot any more."""
        if self._cuda is not None:
            self._cuda.drain()
        fence.release(self)
        self._done.set()

    def placed(self) -> dict[str, StateNode]:
        """The state tree over the slot."""
        return {name: self.layout.placed(node) for name, node in self.components.items()}

    def _copy(self, item: Item) -> None:
        """A CPU tensor's row-major bytes to their place. Large copies let other threads run."""
        place = item.place
        if item.row_major:
            ctypes.memmove(self._mapping.address + place.offset, item.memory_at, place.nbytes)
            return
        source = item.leaf.source
        for begin in range(0, place.nbytes, PIECE_BYTES):
            piece = memoryview(source.read(begin, min(begin + PIECE_BYTES, place.nbytes))).cast("B")
            slot = self._mapping.bytes
            slot[place.offset + begin : place.offset + begin + len(piece)] = piece

    def _names(self, items: list[Item]) -> Iterator[str]:
        wanted = {id(item.leaf) for item in items}
        for name, component in self.components.items():
            path: tuple[Key, ...]
            for path, node in walk(component, (name,)):
                if id(node) in wanted:
                    yield path_text(path)

"""The bits of tensor leaves into live tensors, many at once, wherever these are and however they lie in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch

from ciuic.objects.dtypes import PACKED_ELEMENTS
from ciuic.objects.state_tree import Target, Tensor
from ciuic.state.tensors import byte_view, memory_of, put_bytes, to_torch

Filler: TypeAlias = Callable[[Iterable[Target]], None]
"""Brings the bytes of sources to their targets."""


@dataclass
class Fill:
    """A leaf whose bits a live tensor of the same dtype and shape takes.

    ``choose`` gives that tensor when its turn comes, after all that stands before it in the plan; it may be new.
    """

    node: Tensor
    choose: Callable[[], torch.Tensor]
    live: torch.Tensor = field(init=False)


def fill_all(fills: Sequence[Fill], filler: Filler) -> None:
    """Bring the leaves' bits to the live tensors. Afterwards autograd knows that these have changed."""
    targets: list[_Extent] = []
    quantized: list[Fill] = []
    for each in fills:
        each.live = each.choose()
        live = each.live.detach()
        if live.is_quantized and each.node.dtype not in PACKED_ELEMENTS:
            quantized.append(each)
        elif live.numel():
            targets.append(_extent(live, each.node))
    together, one_by_one = _apart(targets)
    filler(together)
    for target in one_by_one:
        filler([target])
    for each in quantized:
        each.live.detach().copy_(to_torch(each.node))
    for each in fills:
        if each.live.device.type == "cpu" and not each.live.is_inference():
            torch.autograd.graph.increment_version(each.live.detach())


class _Extent(NamedTuple):
    """A target, and the memory ``[low, high)`` of a device that it writes to."""

    target: Target
    device: str
    low: int
    high: int

    @property
    def same(self) -> tuple[Any, ...]:
        """What two targets that write the same bytes to the same memory have in common."""
        return self.low, self.high, getattr(self.target.source, "chunks", self.target.source)


def _extent(live: torch.Tensor, node: Tensor) -> _Extent:
    if live.is_quantized:
        live = memory_of(live)
    last = sum((size - 1) * stride for size, stride in zip(live.shape, live.stride(), strict=True))
    low = live.data_ptr()
    high = low + (last + 1) * live.element_size()
    if live.device.type == "cpu" and live.is_contiguous() and not live.is_conj() and not live.is_neg():
        return _Extent(Target(node.source, byte_view(live)), "cpu", low, high)
    take = functools.partial(put_bytes, live)
    return _Extent(Target(node.source, None, take), str(live.device), low, high)


def _apart(extents: Sequence[_Extent]) -> tuple[list[Target], list[Target]]:
    """Targets that share no memory, and those that do, which threads must not write at once.

    Of those that write the same bytes to the same memory, as tied tensors do, one is left.
    """
    together: list[Target] = []
    sharing: list[int] = []
    order = sorted(range(len(extents)), key=lambda number: extents[number][1:])
    clusters: list[list[int]] = []
    device, reach = "", 0
    for number in order:
        extent = extents[number]
        if extent.device == device and extent.low < reach:
            clusters[-1].append(number)
        else:
            clusters.append([number])
            reach = 0
        device, reach = extent.device, max(reach, extent.high)
    for cluster in clusters:
        first = extents[cluster[0]]
        in_memory = first.target.memory is not None
        if len(cluster) == 1 or (in_memory and all(extents[number].same == first.same for number in cluster)):
            together.append(first.target)
        else:
            sharing += cluster
    return together, [extents[number].target for number in sorted(sharing)]

"""Tensors that stay where they are: whether they are as they were, and copies of those that will not be."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from ciuic.capture.copying import has_no_gaps
from ciuic.capture.samples import WORD, Samples

Copies: TypeAlias = "dict[tuple[Any, ...], torch.Tensor]"
"""By ``memory_key``, so that what is tied stays tied."""

VERSION = operator.attrgetter("_version")


class Still:
    """Tensors that are as they were when ``note`` was called last, but for those that ``changed`` finds.

    Both cost a few tenths of a microsecond a tensor. What moves no version counter is seen in a sample of the elements,
    on the CPU.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        """None of them an inference tensor, which has no version counter."""
        self.tensors = list(tensors)
        self._addresses = addresses_of(self.tensors)
        sampled = [
            index
            for index, tensor in enumerate(self.tensors)
            if tensor.is_cpu and tensor.numel() * tensor.element_size() >= WORD and has_no_gaps(tensor)
        ]
        self._sampled = sampled
        self._memory = [self.tensors[index].detach() for index in sampled]  # it stays ours, whatever becomes of them
        sizes = [tensor.numel() * tensor.element_size() for tensor in self._memory]
        self._samples = Samples([self._addresses[index] for index in sampled], sizes) if sampled else None
        self.note()

    def note(self) -> None:
        """From now on they are to be as they are at this moment."""
        self._versions = list(map(VERSION, self.tensors))
        if self._samples is not None:
            self._samples.read()

    def are_in_place(self) -> bool:
        """Whether they lie where they lay when they were given."""
        return addresses_of(self.tensors) == self._addresses

    def changed(self) -> list[int]:
        """The places of those that are not, or that lie elsewhere now. When some do, no samples are looked at."""
        found: set[int] = set()
        versions, addresses = list(map(VERSION, self.tensors)), addresses_of(self.tensors)
        if versions != self._versions or addresses != self._addresses:
            before = zip(self._versions, self._addresses, strict=True)
            now = zip(versions, addresses, strict=True)
            found.update(index for index, (one, other) in enumerate(zip(before, now, strict=True)) if one != other)
        if self._samples is not None and addresses == self._addresses:  # of a storage that grew, the old place is freed
            found.update(self._sampled[index] for index in self._samples.changed())
        return sorted(found)


class Copied:
    """Small tensors that are copied again and again: many in one go, which takes a quarter of the time."""

    def __init__(self, tensors: Copies) -> None:
        self._apart: Copies = {}
        self._packed: dict[tuple[torch.device, int], Copies] = {}  # by the width of their elements
        for key, tensor in tensors.items():
            if tensor.is_contiguous() and not (tensor.is_inference() or tensor.is_conj() or tensor.is_neg()):
                self._packed.setdefault((tensor.device, tensor.element_size()), {})[key] = tensor.detach()
            else:
                self._apart[key] = tensor
        self._pieces = [[bytes_of(tensor) for tensor in each.values()] for each in self._packed.values()]
        self.renew()

    def renew(self) -> None:
        """Copy them as they are at this moment."""
        self._copied = [torch.cat(pieces) for pieces in self._pieces]
        self._copied_apart = {key: tensor.clone() for key, tensor in self._apart.items()}

    def copies(self) -> Copies:
        found = dict(self._copied_apart)
        for tensors, pieces, copied in zip(self._packed.values(), self._pieces, self._copied, strict=True):
            for (key, tensor), piece in zip(tensors.items(), torch.split(copied, list(map(len, pieces))), strict=True):
                found[key] = piece.view(tensor.dtype).view(tensor.shape)
        return found


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor as bytes: there are dtypes that torch cannot copy."""
    return tensor.view(-1).view(torch.uint8)


def addresses_of(tensors: Sequence[torch.Tensor]) -> list[int]:
    return list(map(torch.Tensor.data_ptr, tensors))


def memory_key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What is the same for two tensors that are the same elements of the same memory."""
    at = tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()
    return *at, tensor.dtype, tensor.is_conj(), tensor.is_neg()

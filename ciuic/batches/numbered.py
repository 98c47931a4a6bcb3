"""Batches loaded by number: every draw made while one is loaded is determined by its epoch and its number in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from ciuic.batches.generators import held_along, held_by, seed_process, unique
from ciuic.batches.worker_signals import PassingOver

Task = tuple[int, int, int, Any]
"""Seed of the epoch, the epoch, the batch's number in it, and its indices."""


class Numbered(Dataset[Any]):
    """A map-style dataset whose items are a loader's whole batches.

    In a worker the generators, the dataset's own among them, are seeded for each batch, so that it does not matter
    which batches that worker had before, or whether it had any. In the training's own process they are left alone.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], in_batches: bool) -> None:
        self.dataset = dataset
        self.collate = collate
        self.in_batches = in_batches
        self._epoch: int | None = None

    def __getitem__(self, task: Task) -> Any:
        seed, epoch, number, indices = task
        if get_worker_info() is not None:
            self._enter(epoch)
            seed_process((seed, epoch, number), self._held())
        return self.collate(self._load(indices))

    def _held(self) -> dict[str, Any]:
        return unique({**held_along("dataset", self.dataset), **held_by("collate_fn", self.collate)})

    def _load(self, indices: Any) -> Any:
        if not self.in_batches:
            return self.dataset[indices]
        if getattr(self.dataset, "__getitems__", None):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def _enter(self, epoch: int) -> None:
        """A worker that lives on has a copy of the dataset from before."""
        if self._epoch != epoch:
            self._epoch = epoch
            set_epoch = getattr(self.dataset, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)


def as_they_are(batch: Any) -> Any:
    """A batch is collated where it is loaded."""
    return batch


class WorkerStart(PassingOver):
    """And it is told of the script's own dataset, before it calls the script's own function."""

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        assert info is not None
        numbered: Any = info.dataset
        object.__setattr__(info, "dataset", numbered.dataset)  # it refuses to be set otherwise
        super().__call__(worker)


class Tasks:
    """The sampler of a loader of numbered batches: what it was told to hand out next."""

    def __init__(self) -> None:
        self.next: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.next


def numbered_loader(loader: Any, tasks: Tasks) -> torch.utils.data.DataLoader[Any]:
    """A loader that loads ``tasks`` as ``loader`` loads its own batches: the same dataset, collating and workers."""
    options: dict[str, Any] = {
        name: getattr(loader, name)
        for name in ("num_workers", "pin_memory", "timeout", "multiprocessing_context", "persistent_workers")
    }
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
        options["worker_init_fn"] = WorkerStart(loader.worker_init_fn)
    return torch.utils.data.DataLoader(
        Numbered(loader.dataset, loader.collate_fn, loader.batch_sampler is not None),
        batch_size=None,
        sampler=tasks,
        collate_fn=as_they_are,
        generator=torch.Generator(),  # apart from the process's: it seeds the workers alone
        **options,
    )

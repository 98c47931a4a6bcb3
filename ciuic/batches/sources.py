"""The ways in which loaders are brought to a position: by index, by their own state, or by drawing and dropping."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from ciuic.batches.generators import Apart, forgetting, held_along, held_by, set_states, states_of, unique
from ciuic.batches.numbered import Tasks, numbered_loader
from ciuic.batches.worker_signals import PassingOver, end_otherwise
from ciuic.errors import PositionError
from ciuic.state.leaves import has_state

logger = logging.getLogger("ciuic")


class Source(Protocol):
    """One loader. ``own``: the generators that belong to it, by name."""

    own: dict[str, Any]

    def begin(self, epoch: int, skip: int, state: Any) -> Iterator[Any]:
        """The batches of an epoch after the first ``skip``. Generators are as they were when the epoch began.

        ``state``: what ``state`` gave after so many batches; None where there was none. PositionError.
        """
        ...

    def state(self, within: bool) -> Any:
        """The loader's own state after the batch that was handed out last, None without one. ``within`` an epoch."""
        ...


def source_of(loader: Any) -> Source:
    """How this loader is brought to a position."""
    if isinstance(loader, DataLoader) and _is_plain(loader):
        return ByStream(loader) if isinstance(loader.dataset, IterableDataset) else ByIndex(loader)
    return ByState(loader) if has_state(loader) else ByReplay(loader)


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether torch's own iteration is what a loop over it gets."""
    kind = type(loader)
    return kind.__iter__ is DataLoader.__iter__ and kind._get_iterator is DataLoader._get_iterator


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to all that asks for it: the loader, its samplers, its dataset."""
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    dataset = getattr(loader, "dataset", None)
    told: list[Any] = []
    for each in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None), dataset):
        method = getattr(each, "set_epoch", None)
        if callable(method) and not any(each is other for other in told):
            told.append(each)
            method(epoch)


def length_of(loader: Any) -> int | None:
    """How many batches an epoch has, as far as the loader says."""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
        return None  # what it says is a guess, and asking makes torch compare
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def drawn_ahead(loader: Any) -> int:
    """Of how many batches a loader draws the indices before it is asked for them."""
    return loader.num_workers * (loader.prefetch_factor or 0) if isinstance(loader, DataLoader) else 0


class ByIndex:
    """A DataLoader over a map-style dataset: the indices of what was drawn are drawn again, and nothing is loaded."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._tasks = Tasks()
        self._feed = numbered_loader(loader, self._tasks)
        self.own = _of_samplers(loader)
        known = {id(each) for each in self.own.values()}
        found = {**held_along("dataset", loader.dataset), **held_by("collate_fn", loader.collate_fn)}
        self._of_dataset = unique({name: each for name, each in found.items() if id(each) not in known})
        if not getattr(loader, "in_order", True):
            logger.warning("The loader hands out batches in whatever order they are ready: no two runs are the same.")

    def begin(self, epoch: int, skip: int, state: Any) -> Iterator[Any]:
        sampler = self._loader.sampler if self._loader.batch_sampler is None else self._loader.batch_sampler
        drawn: Iterator[Any] = iter(sampler)
        # Where torch's own loader draws the seed of its workers.
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator).item())
        apart = not _draws_at_once(sampler)
        indices: Iterator[Any] = Apart(drawn, (seed, epoch)) if apart else drawn
        _pass_over(indices, skip)
        if state is not None:
            set_states(self._of_dataset, state)
        batches = self._load(indices, epoch, skip, seed)
        return forgetting(batches) if apart else batches

    def _load(self, indices: Iterator[Any], epoch: int, skip: int, seed: int) -> Iterator[Any]:
        if skip and self._loader.num_workers:
            following = list(itertools.islice(indices, 1))
            if not following:
                return iter(())  # no reason to start workers
            indices = itertools.chain(following, indices)
        self._tasks.next = ((seed, epoch, number, batch) for number, batch in enumerate(indices, skip))
        assert self._feed.generator is not None
        self._feed.generator.manual_seed(seed)
        return end_otherwise(iter(self._feed))

    def state(self, within: bool) -> Any:
        if self._loader.num_workers or not self._of_dataset:
            return None
        return states_of(self._of_dataset)


class ByStream:
    """A DataLoader over an IterableDataset: by the dataset's own state without workers, else by drawing again."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._workers = loader.num_workers
        self._feed = loader
        self._stream: Stream | None = None
        self.own = _of_samplers(loader)
        if self._workers:
            # Anew in each epoch: workers that live on would draw in their second one what new ones cannot.
            self._feed = _like(loader, loader.dataset)
            self._feed.worker_init_fn = PassingOver(loader.worker_init_fn)
        elif has_state(loader.dataset):
            self._stream = Stream(loader.dataset)
            self._feed = _like(loader, self._stream)
        else:
            self.own = unique({**self.own, **held_along("dataset", loader.dataset)})

    def begin(self, epoch: int, skip: int, state: Any) -> Iterator[Any]:
        if self._stream is not None and state is not None:
            self._stream.dataset.load_state_dict(state["dataset"])
            return iter(()) if state["ended"] and skip else iter(self._feed)
        entropy = _peeked(), epoch
        batches: Iterator[Any] = end_otherwise(iter(self._feed))
        if not self._workers and self._stream is None:
            batches = Apart(batches, entropy)
        _replay(batches, skip, "an IterableDataset with workers" if self._workers else "an IterableDataset")
        return batches

    def state(self, within: bool) -> Any:
        if self._stream is None:
            return None
        return {"dataset": self._stream.dataset.state_dict(), "ended": self._stream.ended}


class Stream(IterableDataset[Any]):
    """A dataset that is known to have ended: a loader asks for more before it hands out the last, smaller batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.ended = False

    def __iter__(self) -> Iterator[Any]:
        self.ended = False
        yield from self.dataset
        self.ended = True


class ByState:
    """Whatever has ``state_dict`` and ``load_state_dict``: torchdata's StatefulDataLoader, for example."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.own = _of_samplers(loader)
        sampler = getattr(loader, "sampler", None) or getattr(loader, "batch_sampler", None)
        if isinstance(loader, DataLoader) and not _is_remembered(sampler):
            logger.warning(
                "The order of a %s is not in the state of a %s: a resumed epoch has another one. A plain DataLoader "
                "is passed over exactly.", type(sampler).__name__, type(loader).__name__,
            )  # fmt: skip

    def begin(self, epoch: int, skip: int, state: Any) -> Iterator[Any]:
        if state is not None and "dataset" in state:
            self._loader.dataset.load_state_dict(state["dataset"])
        if not skip or state is None:
            batches: Iterator[Any] = iter(self._loader)
            _replay(batches, skip, f"a {type(self._loader).__name__} without its state")
            return batches
        self._loader.load_state_dict(state["loader"])
        return iter(self._loader)

    def state(self, within: bool) -> Any:
        """Between epochs the dataset's alone: a loader that has come to its end draws when it is told so."""
        if within:
            return {"loader": self._loader.state_dict()}
        dataset: Any = getattr(self._loader, "dataset", None)
        if has_state(dataset) and not getattr(self._loader, "num_workers", 0):
            return {"dataset": dataset.state_dict()}
        return None


class ByReplay:
    """Any other iterable. An iterator can be gone through once, from where the script has made it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._begun = False
        self.own = _of_wrapper(loader)

    def begin(self, epoch: int, skip: int, state: Any) -> Iterator[Any]:
        if isinstance(self._loader, (list, tuple, range)):
            batches = iter(self._loader)
            _pass_over(batches, skip)
            return batches
        entropy = _peeked(), epoch
        batches = iter(self._loader)
        if batches is self._loader and (self._begun or (skip and epoch)):
            raise PositionError(
                f"A {type(batches).__name__} is an iterator: it can be gone through once, and this is epoch {epoch}. "
                "Give what it was made from: a DataLoader, a list, an object whose __iter__ begins anew."
            )
        self._begun = True
        batches = Apart(batches, entropy)
        _replay(batches, skip, f"a {type(self._loader).__name__}")
        return batches

    def state(self, within: bool) -> Any:
        return None


def _of_samplers(loader: Any) -> dict[str, Any]:
    """The generators of a loader and its samplers."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    return unique(
        {
            **held_by("loader", loader),
            **held_by("sampler", getattr(loader, "sampler", None)),
            **held_by("batch_sampler", batch_sampler),
            **held_by("batch_sampler.sampler", getattr(batch_sampler, "sampler", None)),
        }
    )


def _of_wrapper(loader: Any) -> dict[str, Any]:
    """The generators of something that may go through other loaders, which it holds as attributes."""
    found = held_by("loader", loader)
    for name, inner in getattr(loader, "__dict__", {}).items():
        if isinstance(inner, DataLoader):
            of_inner = {**_of_samplers(inner), **held_along("dataset", inner.dataset)}
            found |= {f"{name}.{key}": each for key, each in of_inner.items()}
    return unique(found)


def _draws_at_once(sampler: Any) -> bool:
    """Whether the process's generators are drawn from for an epoch's first indices alone, as by torch's samplers."""
    if isinstance(sampler, (list, tuple, range)):
        return True
    if not type(sampler).__module__.startswith("torch.utils.data"):
        return False
    if getattr(sampler, "generator", None) is torch.default_generator:
        return False
    return _draws_at_once(sampler.sampler) if isinstance(sampler, BatchSampler) else True


def _is_remembered(sampler: Any) -> bool:
    """Whether a loader with a state can take up this sampler's order in mid epoch."""
    kind = type(sampler)
    in_order = isinstance(sampler, (SequentialSampler, DistributedSampler, list, tuple, range))
    return in_order or has_state(sampler) or "Infinite" in kind.__name__ or kind.__module__.startswith("torchdata.")


def _pass_over(items: Iterator[Any], count: int) -> None:
    passed = sum(1 for _ in itertools.islice(items, count))
    if passed < count:
        raise PositionError(
            f"The snapshot stands after batch {count} of its epoch, and the loader has {passed}. "
            "Give it the data and the batch size that it had; or begin an epoch anew, after "
            "`ciuic prune SNAPSHOT --component data --force`."
        )


def _replay(batches: Iterator[Any], count: int, what: str) -> None:
    if count:
        logger.warning(
            "%s cannot be moved to a position: the %d batches before it are loaded again and dropped.",
            what[0].upper() + what[1:], count,
        )  # fmt: skip
        _pass_over(batches, count)


def _peeked() -> int:
    """The number that the process would draw next, without drawing it."""
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _like(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """A loader of the same options, which starts its workers anew in every epoch."""
    names = (
        *("batch_size", "num_workers", "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn"),
        *("multiprocessing_context", "generator", "prefetch_factor"),
    )
    return DataLoader(dataset, **{name: getattr(loader, name) for name in names})

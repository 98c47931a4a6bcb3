"""One small training with everything that has to come back, over every kind of loader: run whole, or in pieces.

Each step records its number, its loss in full and what its batch was, so that two runs are compared bit for bit.
"""

import hashlib
import random
from dataclasses import dataclass, field

import numpy
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from ciuic.snapshot import SnapshotManager

ITEMS = 22
BATCH = 4
EPOCHS = 2


class Augmented(Dataset):
    """Draws from torch, numpy and Python for each item, as augmentation does; it can tell an epoch by its items."""

    def __init__(self, items=ITEMS):
        self.items = items
        self.epoch = 0
        self.loaded = []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.items

    def __getitem__(self, index):
        self.loaded.append(index)
        noise = torch.rand(3).double().sum() + random.random() + numpy.random.rand()
        return torch.tensor([float(index), float(noise), float(self.epoch), 1.0])


class WithGenerators(Augmented):
    """Draws from generators of its own."""

    def __init__(self):
        super().__init__()
        self.torch = torch.Generator().manual_seed(5)
        self.numpy = numpy.random.default_rng(5)
        self.python = random.Random(5)

    def __getitem__(self, index):
        noise = torch.rand(3, generator=self.torch).double().sum() + self.numpy.random() + self.python.random()
        return torch.tensor([float(index), float(noise), float(self.epoch), 1.0])


class Lazy:
    """A sampler that draws each index when it is asked for it, from Python, numpy and torch."""

    def __init__(self, items=ITEMS):
        self.items = items

    def __iter__(self):
        for _ in range(self.items):
            yield (random.randrange(1000) + numpy.random.randint(1000) + int(torch.randint(1000, ()))) % self.items

    def __len__(self):
        return self.items


class Shuffled:
    """A sampler with a generator of its own, which it draws from lazily."""

    def __init__(self, items=ITEMS):
        self.items = items
        self.rng = numpy.random.default_rng(11)

    def __iter__(self):
        for _ in range(self.items):
            yield int(self.rng.integers(self.items))

    def __len__(self):
        return self.items


class ByEpoch(Shuffled):
    """A sampler that shuffles by the epoch's number, as torch's DistributedSampler."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(numpy.random.default_rng(self.epoch).permutation(self.items).tolist())


class Buckets:
    """A batch sampler: batches of different sizes in an order drawn from Python's generator."""

    def __iter__(self):
        batches = [list(range(start, min(start + 2 + start % 3, ITEMS))) for start in range(0, ITEMS, 4)]
        random.shuffle(batches)
        yield from batches

    def __len__(self):
        return 6


class Stream(IterableDataset):
    """Items drawn as it goes, from the generators of whoever iterates, with no state of its own."""

    def __iter__(self):
        info = get_worker_info()
        for index in range(0 if info is None else info.id, ITEMS, 1 if info is None else info.num_workers):
            noise = torch.rand(3).double().sum() + random.random() + numpy.random.rand()
            yield torch.tensor([float(index), float(noise), 0.0, 1.0])


class StatefulStream(IterableDataset):
    """Knows where it stands; an epoch that is over begins anew."""

    def __init__(self, items=ITEMS):
        self.items = items
        self.index = 0
        self.read = 0
        self.rng = numpy.random.default_rng(3)

    def __iter__(self):
        while self.index < self.items:
            self.index, self.read = self.index + 1, self.read + 1
            yield torch.tensor([float(self.index), float(self.rng.random()), 0.0, 1.0])
        self.index = 0

    def state_dict(self):
        return {"index": self.index, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.index = state["index"]
        self.rng.bit_generator.state = state["rng"]


class Plain:
    """An iterable that is no loader at all."""

    def __iter__(self):
        for index in range(6):
            noise = torch.rand(3).double().sum() + random.random() + numpy.random.rand()
            yield torch.tensor([[float(index), float(noise), 0.0, 1.0]])


class Around:
    """Goes through a loader that it holds, as wrappers do that move batches to a device."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            yield 2 * batch


def random_collate(items):
    """Mixes the items of a batch at random, as mixup does."""
    batch = torch.stack(items)
    return batch[torch.randperm(len(batch))] * random.uniform(0.5, 1.5)


def weights():
    return torch.arange(1, ITEMS + 1, dtype=torch.double)


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


LOADERS = {
    "in order": lambda: DataLoader(Augmented(), BATCH),
    "shuffled": lambda: DataLoader(Augmented(), BATCH, shuffle=True, drop_last=True),
    "shuffled by its generator": lambda: DataLoader(Augmented(), BATCH, shuffle=True, generator=generator()),
    "drawn with replacement": lambda: DataLoader(
        Augmented(), BATCH, sampler=RandomSampler(range(ITEMS), True, 40, generator=generator())
    ),
    "drawn with replacement, by torch's own": lambda: DataLoader(
        Augmented(), BATCH, sampler=RandomSampler(range(ITEMS), True, 40, generator=torch.default_generator)
    ),
    "a subset": lambda: DataLoader(Augmented(), BATCH, sampler=SubsetRandomSampler(range(3, 20))),
    "weighted": lambda: DataLoader(Augmented(), BATCH, sampler=WeightedRandomSampler(weights(), 18)),
    "a lazy sampler": lambda: DataLoader(Augmented(), BATCH, sampler=Lazy()),
    "a sampler with its generator": lambda: DataLoader(Augmented(), BATCH, sampler=Shuffled()),
    "a sampler by the epoch": lambda: DataLoader(Augmented(), BATCH, sampler=ByEpoch()),
    "a list as sampler": lambda: DataLoader(Augmented(), BATCH, sampler=list(range(0, ITEMS, 2))),
    "a batch sampler": lambda: DataLoader(Augmented(), batch_sampler=Buckets()),
    "torch's batch sampler": lambda: DataLoader(Augmented(), batch_sampler=BatchSampler(Lazy(), 5, False)),
    "no batches": lambda: DataLoader(Augmented(6), None, shuffle=True),
    "a random collate": lambda: DataLoader(Augmented(), BATCH, shuffle=True, collate_fn=random_collate),
    "a dataset with generators": lambda: DataLoader(WithGenerators(), BATCH, shuffle=True),
    "a stream": lambda: DataLoader(Stream(), BATCH),
    "a stream with state": lambda: DataLoader(StatefulStream(), BATCH),
    "a list": lambda: [torch.full((2, 4), float(number)) for number in range(5)],
    "an iterable": Plain,
    "a wrapped loader with generators": lambda: Around(
        DataLoader(WithGenerators(), BATCH, shuffle=True, generator=generator())
    ),
    "stateful": lambda: StatefulDataLoader(Augmented(), BATCH, shuffle=True),
    "stateful, with a generator": lambda: StatefulDataLoader(Indexed(), BATCH, shuffle=True, generator=generator()),
    "stateful, a stream": lambda: StatefulDataLoader(StatefulStream(), BATCH),
}
"""Without workers."""

WORKERS = {
    "two workers": lambda: DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2),
    "workers that live on": lambda: DataLoader(
        Augmented(), BATCH, sampler=Lazy(), num_workers=2, persistent_workers=True, collate_fn=random_collate
    ),
    "workers with generators": lambda: DataLoader(
        WithGenerators(), BATCH, shuffle=True, num_workers=2, prefetch_factor=4, generator=generator()
    ),
    "a stream in workers": lambda: DataLoader(Stream(), BATCH, num_workers=2, persistent_workers=True),
    "stateful workers": lambda: StatefulDataLoader(StatefulStream(24), BATCH, num_workers=2),
    "stateful workers, shuffled": lambda: StatefulDataLoader(Indexed(), BATCH, shuffle=True, num_workers=2),
}


class Indexed(Augmented):
    """Draws nothing: what a StatefulDataLoader's workers draw is not in its state."""

    def __getitem__(self, index):
        return torch.tensor([float(index), float(index) ** 0.5, float(self.epoch), 1.0])


class Average:
    """An exponential moving average of the weights."""

    def __init__(self, model):
        self.shadow = [parameter.detach().clone() for parameter in model.parameters()]

    def update(self, model):
        for shadow, parameter in zip(self.shadow, model.parameters(), strict=True):
            shadow.lerp_(parameter.detach(), 0.1)

    def state_dict(self):
        return {"shadow": list(self.shadow)}

    def load_state_dict(self, state):
        for shadow, stored in zip(self.shadow, state["shadow"], strict=True):
            shadow.copy_(stored)


@dataclass
class Record:
    """What was seen. ``steps``: step → (loss, batch). ``weights``: of model and average at the end."""

    steps: dict = field(default_factory=dict)
    weights: str = ""


class Interrupted(Exception):
    """The process would be gone now."""


class Training:
    """A process's worth of training: everything that a script makes before its loop."""

    def __init__(self, folder, loader, *, seed, interval, accumulate=3, **options):
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed)
        self.loader = loader()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=0.05, total_steps=400)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=3)
        self.average = Average(self.model)
        self.accumulate = accumulate
        self.snapshots = SnapshotManager(folder, interval, when_busy="wait", **options)
        self.snapshots.track(
            model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, scaler=self.scaler,
            average=self.average,
        )  # fmt: skip

    def run(self, record, *, until=None, before_step=False, told=lambda step: None, **limits):
        """The loop of a script. ``until``: Interrupted at this step, ``before_step`` or after its end."""
        for step, batch in self.snapshots.batches(self.loader, **limits):
            batch = batch.reshape(-1, 4)
            with torch.autocast("cpu", torch.bfloat16):
                noise = random.gauss(0, 0.1) + float(numpy.random.normal(0, 0.1))
                loss = (self.model(torch.cat([batch, batch]) / 10) + noise).square().mean() / self.accumulate
            self.scaler.scale(loss).backward()
            if (step + 1) % self.accumulate == 0:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
                self.scheduler.step()
                self.average.update(self.model)
            seen = loss.item().hex(), hashlib.blake2s(batch.numpy().tobytes()).hexdigest()[:12]
            assert record.steps.setdefault(step, seen) == seen, f"step {step} is another one than before"
            if step == until and before_step:
                raise Interrupted
            told(step)
            self.snapshots.step(loss=loss)
            if step == until:
                raise Interrupted
        record.weights = digest([*self.model.state_dict().values(), *self.average.shadow])
        self.snapshots.close()


def digest(tensors):
    state = hashlib.blake2s()
    for tensor in tensors:
        state.update(tensor.detach().numpy().tobytes())
    return state.hexdigest()


def first_difference(seen, expected):
    """The first step that differs, with both sides; None when all is the same."""
    for step in sorted({*seen.steps, *expected.steps}):
        if seen.steps.get(step) != expected.steps.get(step):
            return step, seen.steps.get(step), expected.steps.get(step)
    return None if seen.weights == expected.weights else ("weights", seen.weights, expected.weights)


def whole(folder, loader, *, interval=1000, **limits):
    """An uninterrupted run."""
    record = Record()
    Training(folder, loader, seed=1, interval=interval).run(record, **limits)
    return record


def in_pieces(folder, loader, stops, *, interval=2, **limits):
    """The same run, interrupted at each of ``stops`` and begun anew with other objects and other random numbers."""
    record = Record()
    for number, (until, before_step) in enumerate(stops):
        training = Training(folder, loader, seed=1 + 100 * number, interval=interval)
        try:
            training.run(record, until=until, before_step=before_step, **limits)
        except Interrupted:
            training.snapshots.repo.close()
        else:
            raise AssertionError(f"not interrupted at step {until}")
    Training(folder, loader, seed=999, interval=interval).run(record, **limits)
    return record

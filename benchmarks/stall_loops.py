"""Two training loops over AdamW states of a given size, and the clock around their steps.

Device-bound: a step sleeps, as a CPU does while an accelerator works; then the optimizer changes one element in every
64 KiB of every tensor in place, so that no chunk of the state stays as it was. CPU-bound: forward, backward and AdamW.
"""

import gc
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from processes import Ballast
from stall_systems import CIUIC, System, start, stored_copies
from torch.nn import functional

LOOPS = ("device-bound", "CPU-bound")
GIB = 1 << 30
EVERY_64_KIB = (64 << 10) // 4
NOISE = 1_000_003  # elements; against every power of two it shifts, so that no two chunks are alike
FLOAT = 4


@dataclass(frozen=True)
class Size:
    """A state of ``layers`` square matrices, each with its two moments; and what the loops do with it in a step."""

    name: str
    width: int
    layers: int
    batch: int
    device_seconds: float
    slots: int = 2

    @property
    def nbytes(self) -> int:
        return 3 * FLOAT * self.width**2 * self.layers


@dataclass(frozen=True)
class Case:
    """One child process measures it: a loop, a size, a system, and how many snapshots at each distance of steps."""

    loop: str
    size: Size
    snapshots: dict[int, int]  # every so many steps → so many snapshots; at 0, so many steps without any
    system: str
    round: int
    device: str
    together: bool = True  # whether the snapshots at one distance lie beside each other

    @property
    def memory(self) -> int:
        """Bytes at the worst moment: the state, gradients, copies in memory, and what a folder there holds or will."""
        gradients = self.size.nbytes // 3 if self.loop == "CPU-bound" else 0
        copies = 0 if self.system == "none" else self.size.slots if self.system in CIUIC else 1
        if self.together:
            first, *others = self.snapshots.values()  # beside the first lies the snapshot that warmed up
            stored = max(stored_copies(self.system, count) for count in (first + 1, *others))
        else:
            stored = stored_copies(self.system, 1)
        return self.size.nbytes * (1 + copies + stored) + gradients + GIB


@dataclass
class Record:
    """What one system did to one loop with a snapshot every so many steps, in one round. Times in seconds."""

    loop: str
    size: str
    every: int
    system: str
    round: int
    steps: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    first_call: float = 0.0
    drain: float = 0.0
    done: int = 0
    problems: list[str] = field(default_factory=list)


class Layers(torch.nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.utils.skip_init(torch.nn.Linear, size.width, size.width, bias=False) for _ in range(size.layers)
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            batch = functional.layer_norm(torch.relu(layer(batch)), batch.shape[-1:])
        return batch


class Touch(torch.optim.Optimizer):
    """A step in milliseconds, as an accelerator's is to the CPU: it changes every 64 KiB of weights and moments."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] += 1
                for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
                    tensor.view(-1)[::EVERY_64_KIB] += 1e-3


class Training:
    """The model and the optimizer, as after many steps: every byte of the moments is in use."""

    def __init__(self, loop: str, size: Size, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.seconds = size.device_seconds
        self.nbytes = size.nbytes
        self.model = Layers(size).to(self.device)
        noise = torch.randn(NOISE)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.model.parameters(), lr=1e-4)
            if loop == "CPU-bound"
            else Touch(self.model.parameters())
        )
        with torch.no_grad():
            for index, parameter in enumerate(self.model.parameters()):
                moments = torch.empty_like(parameter), torch.empty_like(parameter)
                for number, tensor in enumerate((parameter, *moments)):
                    fill(tensor, noise.roll(7919 * (3 * index + number)))
                parameter.mul_(math.sqrt(2 / size.width))
                moments[0].mul_(1e-3)
                moments[1].mul_(1e-3).square_()
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(100.0),
                    "exp_avg": moments[0],
                    "exp_avg_sq": moments[1],
                }
        self.batch = torch.randn(size.batch, size.width).to(self.device) if loop == "CPU-bound" else None

    def step(self, system: System) -> None:
        if self.batch is None:
            time.sleep(self.seconds)
        else:
            self.model(self.batch).square().mean().backward()
        system.before_step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def fill(tensor: torch.Tensor, noise: torch.Tensor) -> None:
    flat = tensor.view(-1)
    for offset in range(0, len(flat), NOISE):
        piece = flat[offset : offset + NOISE]
        piece.copy_(noise[: len(piece)])


def measure(folder: str, case: Case) -> list[Record]:
    training = Training(case.loop, case.size, case.device)
    system = start(case.system, folder, training.model, training.optimizer, case.size.slots)
    try:
        training.step(system)
        began = time.perf_counter()
        system.save(-1)
        first_call = time.perf_counter() - began
        records = []
        system.settle()
        for index, (every, snapshots) in enumerate(case.snapshots.items()):
            if index:
                system.restart()
            record = Record(case.loop, case.size.name, every, case.system, case.round, first_call=first_call)
            run(training, system, every, snapshots, record)
            records.append(record)
        return records
    finally:
        system.close()


def run(training: Training, system: System, every: int, snapshots: int, record: Record) -> None:
    """Every snapshot is followed by steps that it may slow down; what it does after the last of them is the drain."""
    ballast = Ballast(training.nbytes, stored_copies(record.system, snapshots))
    training.step(system)
    gc.collect()
    for step in range(every * snapshots + (every == 1) if every else snapshots):
        saves = every and step % every == 0 and len(record.calls) < snapshots
        if saves:
            ballast.release()
        began = time.perf_counter()
        training.step(system)
        if saves:
            called = time.perf_counter()
            system.save(step)
            record.calls.append(time.perf_counter() - called)
        record.steps.append(time.perf_counter() - began)
    began = time.perf_counter()
    record.done, record.problems = system.drain()
    record.drain = time.perf_counter() - began


def measure_calls(folder: str, case: Case) -> list[Record]:
    """``run`` for one snapshot at a time, each in a folder of its own: more of them than there is room for together.

    Every call finds the slots free, the snapshot before it published, and steps behind it.
    """
    training = Training(case.loop, case.size, case.device)
    system = start(case.system, folder, training.model, training.optimizer, case.size.slots)
    try:
        training.step(system)
        system.save(-1)
        system.settle()
        records = []
        for every, snapshots in case.snapshots.items():
            record = Record(case.loop, case.size.name, every, case.system, case.round)
            for _ in range(snapshots):
                system.restart()
                one = Record(case.loop, case.size.name, every, case.system, case.round)
                run(training, system, every, 1, one)
                record.steps += one.steps
                record.calls += one.calls
                record.done += one.done
                record.problems += one.problems
            records.append(record)
        return records
    finally:
        system.close()


@dataclass
class Alone:
    """CPU-seconds of a snapshot's parts, each with nothing beside it: medians."""

    copy: float
    encode_and_write: float


def measure_alone(folder: str, size: Size, repeats: int) -> Alone:
    import ciuic

    training = Training("device-bound", size, "cpu")
    tensors = [
        tensor.detach().numpy()
        for parameter in training.model.parameters()
        for tensor in (parameter, *list(training.optimizer.state[parameter].values())[1:])
    ]
    ready = [np.ones_like(array) for array in tensors]
    repo = ciuic.Repo.init(os.path.join(folder, "alone"))
    repo.commit(training.model, training.optimizer, step=-1)
    copies, commits = [], []
    for step in range(repeats):
        training.optimizer.step()
        began = time.process_time()
        for target, array in zip(ready, tensors, strict=True):
            np.copyto(target, array)
        copies.append(time.process_time() - began)
        began = time.process_time()
        repo.commit(training.model, training.optimizer, step=step)
        commits.append(time.process_time() - began)
    return Alone(float(np.median(copies)), float(np.median(commits)))

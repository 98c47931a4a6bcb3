"""What is compared: each system saves a state into a folder, durably or not, and restores it into live objects."""

import os
import shutil
from abc import ABC, abstractmethod
from typing import Any

import torch
from throughput_state import State

Costs = dict[str, float]


class System(ABC):
    """Saves the state into ``folder``, in which it keeps one snapshot and the next."""

    def __init__(self, folder: str, state: State) -> None:
        self.folder = folder
        self.state = state

    @abstractmethod
    def save(self, durable: bool) -> Costs:
        """On return the snapshot is written; when ``durable`` it outlives a power cut. The costs that it tells of."""

    @abstractmethod
    def mark(self) -> None:
        """What is saved next is the snapshot that ``stored`` is about."""

    @abstractmethod
    def stored(self) -> int:
        """Bytes that the last snapshot takes."""

    @abstractmethod
    def restore(self, folder: str, snapshot: str) -> None:
        """Bring the live objects to the snapshot in ``folder``: its first, or the one that ``snapshot`` names."""

    @abstractmethod
    def close(self) -> None:
        """The end."""


class Checkpoints(System):
    """Each snapshot a file or a folder of its own."""

    def __init__(self, folder: str, state: State) -> None:
        super().__init__(folder, state)
        self.number = 0

    def save(self, durable: bool) -> Costs:
        path = path_of(self.folder, self.number)
        self.number += 1
        self.write(path, durable)
        if durable:
            sync(self.folder)
        return {}

    def mark(self) -> None:
        """Each snapshot can be told from the others."""

    def stored(self) -> int:
        return occupied(path_of(self.folder, self.number - 1))

    def restore(self, folder: str, snapshot: str) -> None:
        self.read(path_of(folder, 0))

    def close(self) -> None:
        """Nothing is open."""

    @abstractmethod
    def write(self, path: str, durable: bool) -> None:
        """Save the whole state."""

    @abstractmethod
    def read(self, path: str) -> None:
        """Bring the live objects to it."""

    def load_optimizer(self, state: Any) -> None:
        groups = self.state.optimizer.state_dict()["param_groups"]
        self.state.optimizer.load_state_dict({"state": state, "param_groups": groups})


def path_of(folder: str, number: int) -> str:
    return os.path.join(folder, f"checkpoint-{number}")


class TorchSave(Checkpoints):
    def write(self, path: str, durable: bool) -> None:
        state = {"model": self.state.model.state_dict(), "optimizer": self.state.optimizer.state_dict()}
        torch.save(state, path)
        if durable:
            sync(path)

    def read(self, path: str) -> None:
        state = torch.load(path, mmap=False)
        self.state.model.load_state_dict(state["model"])
        self.state.optimizer.load_state_dict(state["optimizer"])


class Safetensors(Checkpoints):
    def write(self, path: str, durable: bool) -> None:
        from safetensors.torch import save_file

        save_file(self.state.tensors(), path)
        if durable:
            sync(path)

    def read(self, path: str) -> None:
        from safetensors.torch import load_file

        model: dict[str, torch.Tensor] = {}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(path).items():
            part, _, name = key.partition(".")
            if part == "model":
                model[name] = tensor
            else:
                index, _, name = name.partition(".")
                moments.setdefault(int(index), {})[name] = tensor
        self.state.model.load_state_dict(model)
        self.load_optimizer(moments)


class Dcp(Checkpoints):
    """``torch.distributed.checkpoint.save`` and ``load``, in a single process without a process group."""

    def write(self, path: str, durable: bool) -> None:
        from torch.distributed.checkpoint import FileSystemWriter, save

        state = {"model": self.state.model.state_dict(), "optimizer": self.state.optimizer.state_dict()}
        save(state, storage_writer=FileSystemWriter(path, sync_files=durable), no_dist=True)
        if durable:
            sync(path)

    def read(self, path: str) -> None:
        from torch.distributed.checkpoint import FileSystemReader, load

        state = {"model": self.state.model.state_dict(), "optimizer": self.state.optimizer.state_dict()}
        load(state, storage_reader=FileSystemReader(path), no_dist=True)
        self.state.model.load_state_dict(state["model"])
        self.state.optimizer.load_state_dict(state["optimizer"])


class Ciuic(System):
    """``commit(wait=False)`` after ``prepare``, until it is durable. It syncs wherever it writes."""

    waiting = False

    def __init__(self, folder: str, state: State) -> None:
        super().__init__(folder, state)
        self.repo: Any = None
        self.before = 0

    def save(self, durable: bool) -> Costs:
        import ciuic

        if self.repo is None:
            self.repo = ciuic.Repo.init(os.path.join(self.folder, "repository"))
            if not self.waiting:
                self.repo.prepare(self.state.model, self.state.optimizer)
        answer = self.repo.commit(self.state.model, self.state.optimizer, wait=self.waiting)
        costs: Costs = (answer if self.waiting else answer.result()).cost
        return costs

    def mark(self) -> None:
        self.before = occupied(self.folder)

    def stored(self) -> int:
        return occupied(self.folder) - self.before

    def restore(self, folder: str, snapshot: str) -> None:
        import ciuic

        with ciuic.Repo.open(os.path.join(folder, "repository")) as repo:
            repo.restore(snapshot, model=self.state.model, optimizer=self.state.optimizer)

    def close(self) -> None:
        if self.repo is not None:
            self.repo.close()


class CiuicWaiting(Ciuic):
    """``commit()``: stores it in the process itself."""

    waiting = True


SYSTEMS: dict[str, type[System]] = {
    "ciuic": Ciuic,
    "ciuic, waiting": CiuicWaiting,
    "torch.save": TorchSave,
    "safetensors": Safetensors,
    "DCP": Dcp,
}
LOADS = {"torch.save": "torch.load"}
"""What restores, where it goes by another name."""
REFERENCE = {"save": "torch.save", "restore": "torch.load"}
"""What the others are compared with."""


def rehearse(name: str, folder: str, state: State) -> None:
    """Save and restore a small state, so that everything is imported."""
    os.mkdir(folder)
    system = SYSTEMS[name](folder, state)
    system.save(durable=True)
    system.restore(folder, "HEAD")
    system.close()
    shutil.rmtree(folder)


def sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def occupied(path: str) -> int:
    """Bytes that a file, or all files in a folder, take on their file system. The holes in an index take none."""
    if not os.path.isdir(path):
        return 512 * os.stat(path).st_blocks
    return sum(
        512 * os.stat(os.path.join(where, name)).st_blocks for where, _, names in os.walk(path) for name in names
    )

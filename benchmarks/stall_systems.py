"""What is compared: ciuic and its peers, each behind the same four calls."""

import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

# How async_save can be run on the CPU: (executor, whether it stages in a thread beside training). Its documentation has
# the latter for CUDA only; on the CPU it works as well.
DCP = {
    "DCP, thread": ("THREAD", False),
    "DCP, process": ("PROCESS", False),
    "DCP, thread, staged beside": ("THREAD", True),
    "DCP, process, staged beside": ("PROCESS", True),
}
LOW_PRIORITY = "ciuic, low priority"
CIUIC = {"ciuic": "normal", LOW_PRIORITY: "low"}
"""The priority of the writer process."""
BLOCKING = tuple(name for name, (_, beside) in DCP.items() if not beside)
BESIDE = tuple(name for name, (_, beside) in DCP.items() if beside)


def stored_copies(name: str, snapshots: int) -> int:
    """How many of so many snapshots of a round stay in the folder."""
    return 0 if name == "none" else snapshots if name in CIUIC else min(snapshots, 2)


class System:
    """No snapshots at all; what the others start from."""

    def __init__(self, folder: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, slots: int) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.slots = slots
        self.asked = 0
        self.first = 0

    def before_step(self) -> None:
        """Right before ``optimizer.step``, in the time of the step."""

    def save(self, step: int) -> None:
        """In the time of the step, too."""

    def drain(self) -> tuple[int, list[str]]:
        """Wait for what is under way. How many snapshots were made since it settled, and what went wrong."""
        return self.asked - self.first, []

    def settle(self) -> None:
        """Wait, and count from here."""
        self.drain()
        self.first = self.asked

    def restart(self) -> None:
        """Settle, and delete what was written."""
        self.settle()

    def close(self) -> None:
        """The end."""


class Ciuic(System):
    def __init__(self, priority: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.priority = priority
        self.repositories = 0
        self._open()

    def _open(self) -> None:
        import ciuic

        self.pending: list[Any] = []
        self.path = os.path.join(self.folder, str(self.repositories))
        self.repositories += 1
        self.repo = ciuic.Repo.init(self.path, slots=self.slots, priority=self.priority)
        self.repo.prepare(self.model, self.optimizer)

    def save(self, step: int) -> None:
        self.pending.append(self.repo.commit(self.model, self.optimizer, step=step, wait=False))

    def drain(self) -> tuple[int, list[str]]:
        ended = [pending.exception() for pending in self.pending]
        problems = [type(problem).__name__ for problem in ended if problem is not None]
        return len(ended) - len(problems), problems

    def settle(self) -> None:
        self.drain()
        self.pending = []

    def restart(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self.repo.close()
        shutil.rmtree(self.path)


class File(System, ABC):
    """A peer that writes while training waits; the newest two files stay."""

    def save(self, step: int) -> None:
        path = self.next_path()
        self.write(path)

    def next_path(self) -> str:
        """A path to write to; of those before, only the last one is still there."""
        delete(self.path(self.asked - 2))
        self.asked += 1
        return self.path(self.asked - 1)

    def path(self, number: int) -> str:
        return os.path.join(self.folder, f"checkpoint-{number}")

    @abstractmethod
    def write(self, path: str) -> None:
        """The whole state."""

    def restart(self) -> None:
        self.settle()
        for number in (self.asked - 2, self.asked - 1):
            delete(self.path(number))


class TorchSave(File):
    def write(self, path: str) -> None:
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)


class Safetensors(File):
    def write(self, path: str) -> None:
        from safetensors.torch import save_file

        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        save_file(tensors, path)


class Dcp(File):
    """``torch.distributed.checkpoint.async_save``; its stager keeps the memory that it copies to."""

    def __init__(self, executor: str, beside: bool, *arguments: Any) -> None:
        super().__init__(*arguments)
        import torch.distributed as dist
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        os.environ["MASTER_ADDR"] = "127.0.0.1"
        rendezvous = os.path.join(self.folder, "rendezvous")
        dist.init_process_group("cpu:gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
        cuda = next(self.model.parameters()).is_cuda
        # Pinned memory and copies that do not block need an accelerator; shared memory is for the process.
        self.stager = DefaultStager(StagingOptions(cuda, executor == "PROCESS", beside, cuda))
        self.type = AsyncCheckpointerType[executor]
        self.staging: Future[Any] | None = None
        self.upload: Future[Any] | None = None

    def before_step(self) -> None:
        if self.staging is not None:
            self.staging.result()
            self.staging = None

    def write(self, path: str) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        answer = async_save(
            state,
            storage_writer=FileSystemWriter(path),
            async_checkpointer_type=self.type,
            async_stager=self.stager,
        )
        if isinstance(answer, Future):
            self.upload = answer
        else:
            self.staging, self.upload = answer.staging_completion, answer.upload_completion

    def save(self, step: int) -> None:
        self.drain()  # as its documentation has it: one at a time
        super().save(step)

    def drain(self) -> tuple[int, list[str]]:
        if self.upload is not None:
            self.upload.result()
            self.upload = None
        return super().drain()

    def close(self) -> None:
        import torch.distributed as dist

        self.drain()
        self.stager.close()
        dist.destroy_process_group()


def delete(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def start(name: str, folder: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, slots: int) -> System:
    warnings.simplefilter("ignore")
    systems: dict[str, Callable[..., System]] = {
        "none": System,
        "torch.save": TorchSave,
        "safetensors": Safetensors,
    }
    if name in CIUIC:
        return Ciuic(CIUIC[name], folder, model, optimizer, slots)
    if name in DCP:
        return Dcp(*DCP[name], folder, model, optimizer, slots)
    return systems[name](folder, model, optimizer, slots)

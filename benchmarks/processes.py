"""The processes that a benchmark measures in, and the memory and file systems that they find."""

import mmap
import multiprocessing
import os
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_S = 1200
T = TypeVar("T")

# Each case in a process of its own, forked from one that has done nothing but import. The first optimizer of a process
# imports torch._dynamo.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["torch", "torch.distributed.checkpoint", "torch._dynamo", "safetensors.torch", "ciuic"]
)


def in_child(function: Any, folder: str, *arguments: Any) -> Any:
    """What ``function(own, *arguments)`` returns; its own folder, a new one in ``folder``, is gone afterwards.

    RuntimeError with the traceback, or with how the process ended.
    """
    own = tempfile.mkdtemp(dir=folder)
    receiver, sender = _processes.Pipe(duplex=False)
    child = _processes.Process(target=_child, args=(function, own, arguments, sender))
    child.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(PATIENCE_S) else f"no answer within {PATIENCE_S / 60:.0f} minutes"
    except EOFError:
        child.join()
        answer = f"the process ended with {child.exitcode}"
    finally:
        child.join(1)
        if child.is_alive():
            child.kill()
            child.join()
        shutil.rmtree(own, ignore_errors=True)
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _child(function: Any, folder: str, arguments: tuple[Any, ...], sender: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # DCP's process tells of each of its steps
    try:
        answer = function(folder, *arguments)
    except BaseException:
        answer = traceback.format_exc()
    sender.send(answer)


def rotated(items: Sequence[T], by: int) -> tuple[T, ...]:
    """The order of a round: it moves on by one each time."""
    by %= len(items)
    return (*items[by:], *items[:by])


class Ballast:
    """Touched memory, let go of piece by piece right before something of that size is written.

    A virtual machine hands back to its host what it does not use, within seconds, and takes seconds a GB to have it
    again. What the process has touched and holds stays; what it has just let go of is the first to be used.
    """

    def __init__(self, piece: int, pieces: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        self._pieces = [mmap.mmap(-1, piece, flags=flags) for _ in range(pieces)]

    def release(self) -> None:
        """One piece, if there is one left."""
        if self._pieces:
            self._pieces.pop().close()


def memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/meminfo does not say what is available: this benchmark needs Linux.")


def filesystem(folder: str) -> str:
    """The type of what a folder lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    real = os.path.realpath(folder)
    holding = [(point, kind) for point, kind in mounts if (real + "/").startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]))[1]

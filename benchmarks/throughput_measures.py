"""What a process of its own measures: the history to restore from, a system's saves, its restores, and the floors."""

import contextlib
import ctypes
import gc
import mmap
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from processes import Ballast
from throughput_state import PAGE, Shape, State, Training
from throughput_systems import SYSTEMS, Costs, occupied, rehearse, sync

MEMORY, DISK = "tmpfs", "disk"
DEPTH = 8
MARGIN = 64 << 20  # beside the state, what a save may need for itself
CHUNK = 1 << 20


@dataclass
class Made:
    """One snapshot of the history. ``depths``: bytes of chunks by depth. ``digest``: of the live state."""

    id: str
    step: int
    added: int
    raw: int
    digest: str
    depths: dict[int, int] = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return max(self.depths, default=0)


@dataclass
class History:
    """Snapshots a few steps apart. ``changed``: the part of all elements that is not as in the snapshot before."""

    nbytes: int
    every: int
    snapshots: list[Made]
    changed: float

    @property
    def deepest(self) -> Made:
        """The last of those that rest on the longest chains."""
        return max(reversed(self.snapshots), key=lambda made: made.depth)


@dataclass
class Figure:
    """One thing done once: a save, a restore or a floor. Times in seconds; ``peak``: bytes beyond what was there."""

    what: str
    where: str
    system: str
    round: int
    seconds: float
    cpu: float
    nbytes: int = 0
    stored: int = 0
    peak: int = 0
    resident: float = 0.0
    read: int = 0
    costs: Costs = field(default_factory=dict)


def make_history(own: str, disk: str, states: list[str], shape: Shape, every: int, count: int) -> History:
    """Train, commit every so many steps, and save the last state with each peer. ``states``: files for the last two.

    The commits are made in the background: there deltas chain. One that training waits for keeps no bytes to chain to.
    """
    import ciuic

    training = Training(shape)
    snapshots: list[Made] = []
    with ciuic.Repo.init(os.path.join(disk, "repository")) as repo:
        repo.prepare(training.model, training.optimizer)
        for number in range(count):
            if number:
                training.steps(every)
            step = shape.warm_up + number * every
            snapshot = repo.commit(training.model, training.optimizer, step=step, wait=False).result()
            raw = sum(snapshot.raw_bytes.values())
            assert snapshot.step is not None
            made = Made(snapshot.id, snapshot.step, snapshot.added_bytes, raw, training.digest(), costs=snapshot.cost)
            snapshots.append(made)
            if number >= count - 2:
                training.dump(states[number - (count - 2)])
    with ciuic.Repo.open(os.path.join(disk, "repository")) as repo:
        for made in snapshots:
            made.depths = depths_of(repo, made.id)
    for name in SYSTEMS:
        if not name.startswith("ciuic"):
            os.mkdir(os.path.join(disk, name))
            SYSTEMS[name](os.path.join(disk, name), training).save(durable=True)
    before, after = (np.memmap(path, np.uint32, "r") for path in states)
    changed = np.mean(
        [np.mean(before[at : at + CHUNK] != after[at : at + CHUNK]) for at in range(0, len(after), CHUNK)]
    )
    return History(training.nbytes, every, snapshots, float(changed))


def depths_of(repo: Any, snapshot: str) -> dict[int, int]:
    """Raw bytes of the snapshot's chunks by the depth of the shallowest copy, as the packs' footers have it."""
    from ciuic.objects.ids import Kind
    from ciuic.objects.state_tree import Tensor, walk

    store = repo._store
    rows: dict[bytes, tuple[int, int]] = {}
    with store.shared():
        for pack in store.present:
            for row in store.pack(pack).rows:
                if row.header.kind is Kind.CHUNK:
                    found = row.header.depth, row.header.raw_length
                    rows[row.header.id] = min(found, rows.get(row.header.id, found))
    depths: dict[int, int] = {}
    for component in repo.components(snapshot).values():
        for _, leaf in walk(component):
            if isinstance(leaf, Tensor):
                for depth, nbytes in (rows[id] for id in leaf.source.chunks):  # type: ignore[attr-defined]
                    depths[depth] = depths.get(depth, 0) + nbytes
    return dict(sorted(depths.items()))


def measure_saves(own: str, disk: str, states: list[str], shape: Shape, name: str, number: int) -> list[Figure]:
    """In memory, then durably on the disk: a first save, then the one that counts, of the state a few steps later."""
    state = State(shape)
    figures = []
    with tempfile.TemporaryDirectory(dir=disk) as own_disk:
        rehearse(name, os.path.join(tempfile.mkdtemp(dir=own), "rehearsal"), small(shape))
        for where, folder in ((MEMORY, own), (DISK, own_disk)):
            folder = tempfile.mkdtemp(dir=folder)
            system = SYSTEMS[name](folder, state)
            ballast = Ballast(state.nbytes + MARGIN, 2)
            state.fill(states[0])
            ballast.release()
            system.save(durable=where == DISK)
            state.fill(states[1])
            gc.collect()
            sync(folder)  # ends what the file system still has to do about files that are gone
            system.mark()
            cpu = cpu_seconds()
            ballast.release()
            began = time.perf_counter()
            costs = system.save(durable=where == DISK)
            took = time.perf_counter() - began
            cpu = cpu_seconds() - cpu
            figures.append(
                Figure("save", where, name, number, took, cpu, state.nbytes, stored=system.stored(), costs=costs)
            )
            system.close()
            shutil.rmtree(folder)
    return figures


def small(shape: Shape) -> State:
    return State(Shape("small", 1, 64, shape.context, 0))


@dataclass
class Goal:
    """What to restore: the snapshot with this id, or the peer's file; then the live state has this digest."""

    label: str
    system: str
    snapshot: str
    digest: str


def measure_restores(own: str, folders: dict[str, str], shape: Shape, goal: Goal, number: int) -> list[Figure]:
    """Warm from memory, then from the disk, cold. ``folders``: where the history lies, by medium."""
    state = State(shape)
    figures = []
    rehearse(goal.system, os.path.join(tempfile.mkdtemp(dir=own), "rehearsal"), small(shape))
    for where, folder in folders.items():
        if not goal.system.startswith("ciuic"):
            folder = os.path.join(folder, goal.system)
        state.clear()
        ballast = Ballast(state.nbytes + MARGIN, 1)
        gc.collect()
        resident = drop_cache(part_of(folder)) if where == DISK else 1.0
        ballast.release()
        before, cpu, read = status_bytes("VmRSS"), cpu_seconds(), read_bytes()
        Path("/proc/self/clear_refs").write_text("5")
        began = time.perf_counter()
        SYSTEMS[goal.system](own, state).restore(folder, goal.snapshot)
        state.touch()
        took = time.perf_counter() - began
        peak = max(0, status_bytes("VmHWM") - before)
        cpu, read = cpu_seconds() - cpu, read_bytes() - read
        if state.digest() != goal.digest:
            raise RuntimeError(f"{goal.label}, {where}: not the state that was saved")
        figures.append(
            Figure(
                "restore", where, goal.label, number, took, cpu, state.nbytes, peak=peak, resident=resident, read=read
            )
        )
    return figures


def measure_floors(own: str, disk: str, states: list[str], shape: Shape, number: int) -> list[Figure]:
    """The least that can be done with the same bytes: copy, hash, write, read. On all cores the first two."""
    state = State(shape)
    state.fill(states[1])
    arrays = [tensor.numpy().reshape(-1).view(np.uint8) for tensor in state.tensors().values()]
    pieces = [array[at : at + CHUNK] for array in arrays for at in range(0, len(array), CHUNK)]
    targets = [np.ones_like(piece) for piece in pieces]
    path = os.path.join(disk, f"floor-{os.getpid()}")
    ballast = Ballast(state.nbytes + MARGIN, 2)

    def write(path: str, durable: bool) -> None:
        with open(path, "wb", buffering=0) as file:
            for array in arrays:
                file.write(array)
            if durable:
                os.fsync(file.fileno())

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            for target in targets:
                file.readinto(memoryview(target))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, targets, pieces))

        def hash_all() -> None:
            list(pool.map(lambda piece: blake3(piece).digest(), pieces))

        def write_in_memory() -> None:
            write(os.path.join(own, "floor"), False)

        def write_on_disk() -> None:
            write(path, True)

        figures = []
        steps = (
            (MEMORY, "copy", copy), (MEMORY, "BLAKE3", hash_all), (MEMORY, "write", write_in_memory),
            (DISK, "write and fsync", write_on_disk), (DISK, "read", read),
        )  # fmt: skip
        for where, name, action in steps:
            if name.startswith("write"):
                sync(disk)
                ballast.release()
            resident = drop_cache([path]) if name == "read" else 0.0
            cpu, before, began = cpu_seconds(), read_bytes(), time.perf_counter()
            action()
            took = time.perf_counter() - began
            figures.append(
                Figure(
                    "floor", where, name, number, took, cpu_seconds() - cpu, state.nbytes,
                    resident=resident, read=read_bytes() - before,
                )
            )  # fmt: skip
    os.unlink(path)
    return figures


def copy_history(own: str, source: str, target: str) -> None:
    """The same files on another medium; ciuic indexes its packs anew there, which is no part of a restore."""
    import ciuic

    shutil.copytree(source, target)
    with ciuic.Repo.open(os.path.join(target, "repository")) as repo:
        repo.resolve("HEAD")


# What Linux tells


def cpu_seconds() -> float:
    """Of this process and its children."""
    own = time.process_time()
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            ticks += int(fields[11]) + int(fields[12])
    return own + ticks / os.sysconf("SC_CLK_TCK")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def read_bytes() -> int:
    """What this process had the kernel fetch from a disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def part_of(folder: str) -> list[str]:
    """The files below a folder."""
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]


def drop_cache(paths: list[str]) -> float:
    """Have the kernel forget the files' pages. The part that it kept, 0 to 1."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    kept = resident_part(paths)
    if kept and os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container without the right
            Path("/proc/sys/vm/drop_caches").write_text("1")
        kept = resident_part(paths)
    return kept


def resident_part(paths: list[str]) -> float:
    return sum(resident_bytes(path) for path in paths) / max(1, sum(occupied(path) for path in paths))


def resident_bytes(path: str) -> int:
    """How much of a file is in the page cache, as mincore says."""
    size = os.path.getsize(path)
    if not size or not occupied(path):
        return 0
    pages = -(-size // PAGE)
    seen = np.zeros(pages, np.uint8)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as area:
        mapped = np.frombuffer(area, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(seen.ctypes.data)
        )
        del mapped
    return 0 if failed else PAGE * int(np.count_nonzero(seen & 1))

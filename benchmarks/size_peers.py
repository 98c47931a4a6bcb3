"""The others that keep a history, each at work on the same files: what they store after every version.

restic and borg back up one path whose file changes; xet uploads it to a store in a folder, which is what its client
does with a server, network aside; zipnn has no history: it compresses each file's tensors, alone or against the
version before. Nobody needs to be installed: who is not says what is missing.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

State = dict[str, torch.Tensor]
ZIPNN_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Version:
    """One snapshot as a peer gets it: a safetensors file, what it holds, and what the version before held."""

    path: str
    state: State
    before: State | None


def folder_bytes(folder: str, counts: Callable[[str], bool] = lambda path: True) -> int:
    paths = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(os.path.getsize(path) for path in paths if counts(path))


class Safetensors:
    """One whole file a version."""

    def __init__(self, folder: str) -> None:
        self.stored = 0

    def add(self, version: Version) -> None:
        self.stored += os.path.getsize(version.path)


class TorchSave:
    """One whole file a version; its bytes are counted, not kept."""

    def __init__(self, folder: str) -> None:
        self.stored = 0

    def add(self, version: Version) -> None:
        torch.save(version.state, self)

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.stored += size
        return size

    def flush(self) -> None:
        pass


class Program:
    """A backup program's repository: the whole folder counts, as its user's disk does."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.repository = os.path.join(folder, "repository")
        self.environment = {**os.environ, "HOME": folder, "XDG_CACHE_HOME": os.path.join(folder, "cache")}

    def run(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environment, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr.strip() or done.returncode}")

    @property
    def stored(self) -> int:
        return folder_bytes(self.repository)


class Restic(Program):
    """Its repository is always encrypted, after it was compressed."""

    def __init__(self, folder: str, compression: str) -> None:
        super().__init__(folder)
        self.compression = compression
        self.environment |= {"RESTIC_PASSWORD": "none", "RESTIC_REPOSITORY": self.repository}
        self.run("restic", "init", "--quiet")

    def add(self, version: Version) -> None:
        self.run("restic", "backup", "--quiet", "--compression", self.compression, version.path)


class Borg(Program):
    def __init__(self, folder: str, compression: str) -> None:
        super().__init__(folder)
        self.compression = compression
        self.versions = 0
        self.environment["BORG_BASE_DIR"] = folder
        self.run("borg", "init", "--encryption", "none", self.repository)

    def add(self, version: Version) -> None:
        self.versions += 1
        archive = f"{self.repository}::{self.versions}"
        self.run("borg", "create", "--compression", self.compression, archive, version.path)


class Zipnn:
    """Each tensor by itself, in a file like the version's; with ``delta``, its XOR with the version before, if any."""

    def __init__(self, folder: str, delta: bool) -> None:
        self.delta = delta
        self.stored = 0

    def add(self, version: Version) -> None:
        self.stored += os.path.getsize(version.path) - sum(tensor.nbytes for tensor in version.state.values())
        for name, tensor in version.state.items():
            dtype = ZIPNN_DTYPES.get(tensor.dtype)
            base = version.before.get(name) if self.delta and version.before is not None else None
            nbytes = tensor.nbytes
            self.stored += nbytes if dtype is None else min(nbytes, self.compressed(dtype, tensor, base))

    @staticmethod
    def compressed(dtype: str, tensor: torch.Tensor, base: torch.Tensor | None) -> int:
        from zipnn import ZipNN

        if base is None:
            return len(ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1).compress(raw_bytes(tensor)))
        coder = ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1, delta_compressed_type="byte")
        return len(coder.compress(raw_bytes(tensor), delta_second_data=raw_bytes(base)))


def raw_bytes(tensor: torch.Tensor) -> bytearray:
    """A copy: the compressor works in place."""
    return bytearray(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


class Xet:
    """Chunks cut by content, stored once, compressed; with the metadata that finds them again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def add(self, version: Version) -> None:
        from hf_xet import SKIP_SHA256, XetConfig, XetSession

        config = XetConfig().with_config({"log.dest": os.path.join(self.folder, "log"), "telemetry.enabled": False})
        session = XetSession(config)  # a new one, as each upload is a run of its own
        with session.new_upload_commit(endpoint=f"local://{self.folder}") as upload:
            upload.start_upload_file(version.path, sha256=SKIP_SHA256)

    @property
    def stored(self) -> int:
        store = os.path.join(self.folder, "xet", "xorbs")
        shards = os.path.join(store, "shards")
        return folder_bytes(os.path.join(store, "xorbs"), lambda path: not path.endswith(".tagset")) + folder_bytes(
            shards, lambda path: path.endswith(".mdb")
        )


PEERS: dict[str, Callable[[str], Any]] = {
    "torch.save": TorchSave,
    "safetensors": Safetensors,
    "restic": lambda folder: Restic(folder, "auto"),
    "restic max": lambda folder: Restic(folder, "max"),
    "borg": lambda folder: Borg(folder, "lz4"),
    "borg zstd": lambda folder: Borg(folder, "zstd"),
    "zipnn": lambda folder: Zipnn(folder, delta=False),
    "zipnn delta": lambda folder: Zipnn(folder, delta=True),
    "xet": Xet,
}
OTHER_SETTINGS = ("restic max", "borg")  # measured once: the first is slow and hardly smaller, the second is larger
NEEDS = {"restic": "restic", "borg": "borg", "zipnn": "zipnn", "xet": "hf_xet"}


def missing(peer: str) -> bool:
    needed = NEEDS.get(peer.split()[0])
    return needed is not None and shutil.which(needed) is None and importlib.util.find_spec(needed) is None


def version_of(peer: str) -> str:
    """Which release was measured."""
    from importlib.metadata import version

    needed = NEEDS[peer]
    if program := shutil.which(needed):
        command = [program, "version" if peer == "restic" else "--version"]
        shown = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        return " ".join(shown.split()[:2])
    return f"{needed} {version(needed.replace('_', '-'))}"

"""The two small files that make a folder a repository: ``format`` (what a reader must know) and ``config.toml``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ciuic.errors import InvalidConfig, NotARepository, UnsupportedFormat
from ciuic.store.fs import FileSystem

FORMAT_VERSION = 1
DELTAS = "deltas"
"""Records with a base, recipes, and codecs above 1."""
KNOWN_FEATURES = frozenset((DELTAS,))
ID_BYTES = 16


@dataclass(frozen=True)
class Config:
    """``chunk_size`` and ``pack_limit`` in bytes; a log record expires after ``expire_days`` unless it is among the
    newest ``keep_records`` of its log; ``full_check``: what a commit codes it decodes again as a whole, before it is
    published, and not the compressed planes alone; ``allow_network``: write although this is a network file system.
    ``retention`` and ``triggers`` are tables of plain values, which mean something to the rooms of these names."""

    chunk_size: int = 1 << 20
    pack_limit: int = 256 << 20
    expire_days: int = 90
    keep_records: int = 100
    full_check: bool = False
    allow_network: bool = False
    retention: Mapping[str, Any] = field(default_factory=dict)
    triggers: Mapping[str, Any] = field(default_factory=dict)


TABLES = ("retention", "triggers")
LIMITS = {
    "chunk_size": (1 << 12, 1 << 26),
    "pack_limit": (1 << 20, 1 << 40),
    "expire_days": (0, 36500),
    "keep_records": (1, 1 << 30),
    "full_check": (False, True),
    "allow_network": (False, True),
}


def encode_config(config: Config) -> bytes:
    """The file of a new repository, without tables."""
    lines = [f"{name} = {str(getattr(config, name)).lower()}" for name in LIMITS]
    return ("# Sizes in bytes. Changing chunk_size affects new snapshots only.\n" + "\n".join(lines) + "\n").encode()


def read_config(fs: FileSystem, path: str) -> Config:
    """The settings of ``config.toml``; a missing file means the defaults. InvalidConfig names what is wrong."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(fs.read_file(path, 1 << 20).decode("utf-8"))
    except FileNotFoundError:
        return Config()
    except IsADirectoryError:
        raise InvalidConfig(f"{path}: a folder stands where the settings belong. Move it away.") from None
    except (ValueError, RecursionError) as error:  # ValueError: a number with thousands of digits, too
        raise InvalidConfig(f"{path}: {error}. Correct it, or delete it for the defaults.") from error
    for name, value in values.items():
        if name in TABLES:
            if not isinstance(value, dict):
                raise InvalidConfig(f"{path}: {name} must be a table: write [{name}] above its settings.")
            continue
        low, high = LIMITS.get(name, (0, -1))
        if high < 0:
            raise InvalidConfig(f"{path}: unknown setting {name!r}. Known: {', '.join((*LIMITS, *TABLES))}.")
        if type(low) is bool and type(value) is not bool:
            raise InvalidConfig(f"{path}: {name} must be true or false, not {value!r}.")
        if type(value) is not type(low) or not low <= value <= high:
            raise InvalidConfig(f"{path}: {name} must be a whole number from {low} to {high}, not {value!r}.")
    config = Config(**values)
    if config.chunk_size % 16:
        raise InvalidConfig(f"{path}: chunk_size must be a multiple of 16.")
    return config


class Format(NamedTuple):
    """What the file ``format`` says."""

    repository_id: bytes
    features: frozenset[str]


def encode_format(format: Format) -> bytes:
    features = " ".join(("features", *sorted(format.features)))
    return f"ciuic {FORMAT_VERSION}\nid {format.repository_id.hex()}\n{features}\n".encode()


def read_format(fs: FileSystem, root: str) -> Format:
    """The repository's id and features; NotARepository or UnsupportedFormat otherwise."""
    path = os.path.join(root, "format")
    try:
        text = fs.read_file(path, 4096).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotARepository(
            f"{root} is not a ciuic repository. `ciuic init` makes one; `--repo DIR` names one."
        ) from None
    lines = text.splitlines()
    words = lines[0].split() if lines else []
    if len(words) != 2 or words[0] != "ciuic" or not words[1].isdecimal() or not int(words[1]):
        raise NotARepository(f"{path} is not the format file of a ciuic repository. Restore it from a copy.")
    if int(words[1]) > FORMAT_VERSION:
        raise UnsupportedFormat(f"{root} has format {words[1]}; this ciuic reads {FORMAT_VERSION}. Upgrade ciuic.")
    facts = {line.split()[0]: line.split()[1:] for line in lines[1:] if line.split()}
    features = frozenset(facts.get("features", ()))
    unknown = sorted(features - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedFormat(f"{root} needs the features {', '.join(unknown)}. Upgrade ciuic.")
    try:
        (identity,) = facts["id"]
        repository_id = bytes.fromhex(identity)
    except (KeyError, ValueError):
        repository_id = b""
    if len(repository_id) != ID_BYTES:
        raise NotARepository(f"{path} does not name its repository. Restore it from a copy.")
    return Format(repository_id, features)

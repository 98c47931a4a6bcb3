"""Ids: BLAKE3-256 of what an object says.

A chunk's id is the plain BLAKE3 hash of its raw bytes, so anybody can compute it. The other objects use BLAKE3's
key-derivation mode with a context of their own, so that no chunk can pose as a tree (BLAKE3 specification, 2.4).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from blake3 import blake3

ID_LENGTH = 32
NO_ID = bytes(ID_LENGTH)
SHORT = 8
"""Digits of an id that people look at: enough to tell apart the snapshots of any run."""


class Kind(IntEnum):
    """What a record holds. Values are stored and append-only."""

    CHUNK = 1
    TREE = 2
    SNAPSHOT = 3
    RECIPE = 4


CONTEXTS = {Kind.TREE: "ciuic 1 tree", Kind.SNAPSHOT: "ciuic 1 snapshot", Kind.RECIPE: "ciuic 1 recipe"}


def digest(data: Any) -> bytes:
    """Plain BLAKE3-256 of a bytes-like object."""
    return blake3(data).digest()


def object_id(kind: Kind, raw: Any) -> bytes:
    """The id of an object of ``kind`` whose raw bytes are ``raw``."""
    if kind is Kind.CHUNK:
        return blake3(raw).digest()
    return blake3(raw, derive_key_context=CONTEXTS[kind]).digest()


def short(id: str) -> str:
    """The beginning of a hexadecimal id, as every message and every command shows it."""
    return id[:SHORT]

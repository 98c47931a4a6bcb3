"""ciuic: git for training state."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ciuic.errors import CiuicError as CiuicError
    from ciuic.repo import Repo as Repo
    from ciuic.snapshot import Snapshot as Snapshot
    from ciuic.snapshot import SnapshotManager as SnapshotManager
    from ciuic.writer.pending import PendingSnapshot as PendingSnapshot

_HOMES = {
    "PendingSnapshot": "ciuic.writer.pending",
    "Repo": "ciuic.repo",
    "Snapshot": "ciuic.objects.snapshot",
    "SnapshotManager": "ciuic.snapshot",
}

__all__ = ["CiuicError", "PendingSnapshot", "Repo", "Snapshot", "SnapshotManager", "__version__"]


def __getattr__(name: str) -> Any:
    """Public names load when first used, so that ``import ciuic`` and the command line start fast."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    errors = importlib.import_module("ciuic.errors")
    if name.startswith("_") or not hasattr(errors, name):
        raise AttributeError(f"module 'ciuic' has no attribute {name!r}")
    return getattr(errors, name)


def __dir__() -> list[str]:
    return sorted(__all__)

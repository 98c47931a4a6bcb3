"""Between a repository and a file: what the commands export and import do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ciuic.errors import Pruned
from ciuic.interchange.exporting import ExportReport, Progress, export_snapshot
from ciuic.interchange.importing import read_file
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import StateNode, Tensor, walk


class Repository(Protocol):
    """What is needed of ``ciuic.Repo``."""

    def resolve(self, revision: str | Snapshot) -> Snapshot:
        """The snapshot that a revision names."""
        ...

    def components(self, revision: str | Snapshot) -> dict[str, StateNode]:
        """A snapshot's components, pruned ones left out; tensors read when asked."""
        ...

    def commit_components(
        self,
        components: Mapping[str, StateNode],
        contains: tuple[str, ...],
        *,
        step: int | None,
        message: str,
    ) -> Snapshot:
        """A durable snapshot of state trees, on the current branch."""
        ...


@dataclass(frozen=True)
class ImportReport:
    """What an import found in ``file``, and the ``snapshot`` that it made: None after a dry run.

    ``tensors`` counts names; ``tied`` of these share another's memory. ``nbytes`` is the size of the
    tensors, each counted once.
    """

    file: str
    components: tuple[str, ...]
    tensors: int
    tied: int
    nbytes: int
    snapshot: Snapshot | None


def export(
    repo: Repository,
    revision: str | Snapshot,
    file: str | os.PathLike[str],
    *,
    component: str = "model",
    format: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a component of a snapshot to ``file``; see ``export_snapshot``.

    The header of a safetensors file names the snapshot: "ciuic.snapshot", "ciuic.component" and "ciuic.step".
    """
    file = os.fspath(file)
    snapshot = repo.resolve(revision)
    components = repo.components(snapshot)
    if component in snapshot.tree and component not in components:
        raise Pruned(f"The {component} of {short(snapshot.id)} was pruned. `ciuic log` shows other snapshots.")
    metadata = {"ciuic.snapshot": snapshot.id, "ciuic.component": component}
    if snapshot.step is not None:
        metadata["ciuic.step"] = str(snapshot.step)
    return export_snapshot(
        components,
        file,
        component=component,
        format=format,
        metadata=metadata,
        force=force,
        progress=progress,
    )


def import_file(
    repo: Repository,
    file: str | os.PathLike[str],
    *,
    to: str = "model",
    message: str = "",
    step: int | None = None,
    dry_run: bool = False,
) -> ImportReport:
    """Make a snapshot of what ``file`` holds, durable on return. A dry run commits nothing.

    ``to`` is the component that the file becomes, or "all" for a .pt file of component → state. The new
    snapshot holds these components alone. Nothing in the file is run. Raises InvalidImport, UnsafePath, or
    UnsupportedState for a tensor that cannot be stored.
    """
    from ciuic.interchange.component_trees import to_component

    file = os.fspath(file)
    states, _ = read_file(file, to=to)
    components = {name: to_component(name, state, file) for name, state in states.items()}
    tensors = [leaf for node in components.values() for _, leaf in walk(node) if isinstance(leaf, Tensor)]
    own = [tensor for tensor in tensors if tensor.tie is None]
    snapshot = None
    if not dry_run:
        message = message or f"import {os.path.basename(file)}"
        snapshot = repo.commit_components(components, tuple(components), step=step, message=message)
    nbytes = sum(tensor.source.nbytes for tensor in own)
    return ImportReport(file, tuple(components), len(tensors), len(tensors) - len(own), nbytes, snapshot)

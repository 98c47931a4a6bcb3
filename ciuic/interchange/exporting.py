"""A snapshot's components → one file that others read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ciuic.errors import UnknownPath, UnsupportedState
from ciuic.interchange.atomic_file import AtomicFile
from ciuic.interchange.flat_names import containers_metadata, flatten
from ciuic.interchange.safetensors_file import write_tensors
from ciuic.interchange.ties import drop_tied_names, first_names
from ciuic.objects.state_tree import StateNode, Tensor, path_text, walk

ALL = "all"
FORMATS = {".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".bin": "torch"}
"""Suffix → format."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written. ``format`` is "safetensors" or "torch"; ``size`` is the file's, in bytes.

    ``tensors`` counts what stands in the file; ``tied`` maps each further name of a tensor to the one it
    stands under.
    """

    file: str
    format: str
    components: tuple[str, ...]
    tensors: int
    size: int
    tied: dict[str, str]


def export_snapshot(
    components: Mapping[str, StateNode],
    file: str,
    *,
    component: str = "model",
    format: str | None = None,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write one component, or with "all" every one, to ``file``: whole and durable on return, or not at all.

    safetensors (streamed; holds tensors only): flat names, tied ones as ``safetensors.torch.save_model``
    writes them. torch: ``torch.load(file, weights_only=True)`` gives a model's plain state_dict, what
    ``torch.optim.Optimizer.load_state_dict`` takes (with "param_names"), or component → state for "all";
    numpy arrays become tensors. ``metadata`` goes into a safetensors file's header.

    ``progress`` hears the bytes written and in all. Raises UnknownPath for a component that is not there,
    UnsupportedState, by its path, for what the format cannot hold, and StorageError when the file exists and
    ``force`` is False.
    """
    format = format or _format_of(file)
    names = tuple(components) if component == ALL else (component,)
    if component not in components and component != ALL:
        raise UnknownPath(f"the snapshot has no {component}: it has {', '.join(components) or 'nothing'}.")
    if format == "torch":
        return _export_torch(components, file, names, component == ALL, force, progress)
    if component == ALL:
        raise UnsupportedState(f"{file}: a safetensors file holds one component. Name it, or export to a .pt file.")
    return _export_safetensors(components[component], file, component, metadata or {}, force, progress)


def _format_of(file: str) -> str:
    for suffix, format in FORMATS.items():
        if file.endswith(suffix):
            return format
    raise UnsupportedState(f"{file}: no known suffix. Name it .safetensors, .pt or .pth, or say which (--format).")


def _export_safetensors(
    node: StateNode,
    file: str,
    component: str,
    metadata: Mapping[str, str],
    force: bool,
    progress: Progress | None,
) -> ExportReport:
    paths, containers = flatten(node, component)
    tensors = {path_text(path): tensor for path, tensor in paths.items()}
    first = {path_text(path): path_text(name) for path, name in first_names(node).items()}
    kept, tied = drop_tied_names(tensors, first)
    header = {"format": "pt", **metadata, **containers_metadata(containers), **tied}
    advance = _counter(sum(tensor.source.nbytes for tensor in kept.values()), progress)
    with AtomicFile(file, replace=force) as out:
        write_tensors(out, kept, header, advance=advance)
    return ExportReport(file, "safetensors", (component,), len(kept), out.size, tied)


def _export_torch(
    components: Mapping[str, StateNode],
    file: str,
    names: tuple[str, ...],
    together: bool,
    force: bool,
    progress: Progress | None,
) -> ExportReport:
    from ciuic.interchange.component_trees import to_plain_objects
    from ciuic.interchange.torch_file import write_torch

    leaves = {(name, *path): leaf for name in names for path, leaf in walk(components[name])}
    tensors = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, Tensor)}
    top = 0 if together else 1
    tied = {
        path_text(path[top:]): path_text((path[0], *leaf.tie)[top:])
        for path, leaf in tensors.items()
        if leaf.tie is not None
    }
    nbytes = sum(leaf.source.nbytes for leaf in tensors.values())
    with AtomicFile(file, replace=force) as out:
        states = {name: to_plain_objects(name, components[name]) for name in names}
        write_torch(out, states if together else states[names[0]])
    if progress is not None:
        progress(nbytes, nbytes)
    return ExportReport(file, "torch", names, len(tensors) - len(tied), out.size, tied)


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    return advance

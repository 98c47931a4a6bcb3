"""Commands that look into a snapshot: ls, cat."""

from __future__ import annotations

import pprint
import sys
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.errors import Pruned, UnknownPath, UnknownRevision

if TYPE_CHECKING:
    from ciuic.cli.selection import Part
    from ciuic.objects.state_tree import Tensor
    from ciuic.repo import Repo

LONGEST_VALUE = 40
RAW_PIECE = 4 << 20


@click.command("ls", cls=Command)
@click.argument("revision", metavar="[REV[:PATH]]", default="HEAD", type=REVISION)
@click.option("-r", "--recursive", is_flag=True, help="Every tensor and value below, not one level.")
@pass_session
def ls_command(session: Session, revision: str, recursive: bool) -> None:
    """List what a snapshot (default HEAD) or a part of it holds: type, shape, size, path.

    A path reads as the others do in ciuic: HEAD:model, HEAD:model/layers.0, HEAD:optimizer/param_groups/0.
    """
    part = _part(session, revision)
    below = list(part.leaves() if recursive else part.children()) or [part]
    if session.as_json:
        for each in below:
            session.emit(_record(each))
        return
    from ciuic.cli.tables import print_table

    rows = [_row(each) for each in below]
    print_table(session, ["type", "shape or value", "size", "path"], rows, right=["size"], fold="path", indent=0)


def _part(session: Session, revision: str) -> Part:
    from ciuic.cli.selection import select

    repo = session.repo()
    try:
        found = repo.find(revision)
    except UnknownRevision as error:
        raise _meant_path(repo, revision) or error from None
    snapshot, path = found.snapshot, found.path or ""
    component = path.strip("/").split("/")[0]
    if component in repo.prune_state(snapshot.id):
        raise Pruned(f"The {component} of {snapshot.named} was pruned. Other components are there.")
    return select(repo.components(snapshot), path)


def _meant_path(repo: Repo, revision: str) -> UnknownRevision | None:
    """What to say of a path without its snapshot."""
    head = repo.head().snapshot
    if head is None or revision.split("/")[0] not in repo.resolve(head).tree:
        return None
    return UnknownRevision(f"{revision!r} names no snapshot, but a part of one. Write HEAD:{revision}.")


def _row(part: Part) -> list[str]:
    from ciuic.objects.state_tree import Container, Tensor

    node, text = part.node, printable(part.text)
    if isinstance(node, Tensor):
        tie = f" = {printable(_tie(part, node))}" if node.tie is not None else ""
        return [_dtype(node), str(list(node.shape)), humane.size(node.source.nbytes), text + tie]
    children = list(part.children())
    kind = node.kind if isinstance(node, Container) else type(node.value).__name__
    if not isinstance(node, Container) and not children:
        return [kind, _value_text(node.value), "", text]
    nbytes = sum(tensor.source.nbytes for tensor in part.tensors())
    return [
        kind,
        humane.count(len(children), "entry", "entries"),
        humane.size(nbytes) if nbytes else "",
        f"{text}/",
    ]


def _record(part: Part) -> dict[str, Any]:
    from ciuic.objects.state_tree import Container, Tensor

    node = part.node
    if isinstance(node, Tensor):
        return {"type": "tensor", "path": part.text, **_tensor_facts(part, node)}
    if isinstance(node, Container):
        nbytes = sum(tensor.source.nbytes for tensor in part.tensors())
        return {
            "type": "container",
            "path": part.text,
            "kind": node.kind,
            "entries": len(node.items),
            "bytes": nbytes,
        }
    return {"type": "value", "path": part.text, "value": node.value}


def _tensor_facts(part: Part, tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "bytes": tensor.source.nbytes,
        "tied_to": None if tensor.tie is None else _tie(part, tensor),
    }


def _tie(part: Part, tensor: Tensor) -> str:
    return "/".join(str(key) for key in (part.path[0], *(tensor.tie or ())))


def _dtype(tensor: Tensor) -> str:
    return tensor.dtype if tensor.array == "torch" else f"{tensor.array} {tensor.dtype}"


def _value_text(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


@click.command("cat", cls=Command)
@click.argument("revision", metavar="REV:PATH", type=REVISION)
@click.option(
    "--raw",
    is_flag=True,
    help="A tensor's row-major bytes, or a value's own bytes or text, and nothing else.",
)
@pass_session
def cat_command(session: Session, revision: str, raw: bool) -> None:
    """Print one tensor or value of a snapshot: HEAD:model/layers.0.weight, step:499:extra/tokens_seen."""
    from ciuic.objects.state_tree import Tensor

    part = _part(session, revision)
    if isinstance(part.node, Tensor):
        _print_tensor(session, part, part.node, raw)
    else:
        _print_value(session, part, raw)


def _print_tensor(session: Session, part: Part, tensor: Tensor, raw: bool) -> None:
    if raw:
        for start in range(0, tensor.source.nbytes, RAW_PIECE):
            stop = min(start + RAW_PIECE, tensor.source.nbytes)
            sys.stdout.buffer.write(tensor.source.read(start, stop))
        return
    from ciuic.state.tensors import to_torch

    live = to_torch(tensor)
    if session.as_json:
        session.emit({"type": "tensor", "path": part.text, **_tensor_facts(part, tensor), "values": live.tolist()})
    else:
        session.line(f"{_dtype(tensor)} {list(tensor.shape)}  {humane.size(tensor.source.nbytes)}")
        session.line(str(live))


def _print_value(session: Session, part: Part, raw: bool) -> None:
    from ciuic.cli.selection import plain

    try:
        value = plain(part.node)
    except ValueError:
        raise UnknownPath(
            f"{part.text or 'The whole snapshot'} holds tensors. Name one of them; `ciuic ls -r` lists them."
        ) from None
    if raw:
        if not isinstance(value, (str, bytes)):
            raise UnknownPath(f"{part.text} is a {type(value).__name__}: --raw is for tensors, bytes and text.")
        sys.stdout.buffer.write(value if isinstance(value, bytes) else value.encode())
    elif session.as_json:
        session.emit({"type": "value", "path": part.text, "value": value})
    elif isinstance(value, str):
        session.line(printable(value, keep="\n\t"))
    else:
        session.line(printable(pprint.pformat(value, width=100, sort_dicts=False), keep="\n"))

"""The command diff: what changed between two snapshots, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text

if TYPE_CHECKING:
    from ciuic.history.diff import Diff, ModuleChange, TensorChange, ValueChange

SHOWN = 10
LONGEST_VALUE = 60


@click.command("diff", cls=Command)
@click.argument("before", metavar="[A]", default="HEAD~1", type=REVISION)
@click.argument("after", metavar="[B]", default="HEAD", type=REVISION)
@click.option("--path", metavar="P", default="", help="Only what lies at or below P: optimizer, model/layers.0.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=SHOWN,
    help=f"Rows a table; 0 for all. Default {SHOWN}.",
)
@pass_session
def diff_command(session: Session, before: str, after: str, path: str, limit: int) -> None:
    """Compare snapshot A with B (default: HEAD~1 with HEAD; A alone: with HEAD).

    Shows changed configuration, metrics and values, added and removed keys, and for every changed tensor the
    share of elements that changed, the L2 norm of the difference (also relative to A's), the largest
    difference and the cosine: by module, then by tensor, the model before the optimizer, most changed first.
    """
    repo = session.repo()
    with session.progress("comparing") as progress:
        keywords: dict[str, Any] = {} if progress is None else {"progress": progress}
        diff = repo.diff(before, after, path=path, **keywords)
    if session.as_json:
        for record in _records(diff):
            session.emit(record)
    else:
        _print(session, diff, limit)


def _records(diff: Diff) -> Iterator[dict[str, Any]]:
    yield {
        "type": "snapshots",
        "a": diff.a.id,
        "b": diff.b.id,
        "same_state": diff.same_state,
        "changed_tensors": len(diff.tensors),
        "unchanged_tensors": diff.unchanged_count,
        "generators": list(diff.generators),
        "pruned": list(diff.pruned),
    }
    for kind, values in (("config", diff.config), ("metric", diff.metrics), ("value", diff.values)):
        for value in values:
            yield {
                "type": kind,
                "path": value.path,
                "before": value.before,
                "after": value.after,
                "change": value.kind,
            }
    for path in diff.added:
        yield {"type": "added", "path": path}
    for path in diff.removed:
        yield {"type": "removed", "path": path}
    for retyped in diff.retyped:
        yield {"type": "retyped", **asdict(retyped)}
    for module in diff.modules:
        yield {"type": "module", **asdict(module)}
    for tensor in diff.tensors:
        yield {"type": "tensor", **asdict(tensor)}


def _print(session: Session, diff: Diff, limit: int) -> None:
    session.line(f"{snapshot_text(session.paint, diff.a)} -> {snapshot_text(session.paint, diff.b)}")
    for title, values in (("config", diff.config), ("metrics", diff.metrics), ("values", diff.values)):
        _print_values(session, title, values, limit)
    _print_keys(session, "added", [f"+ {printable(path)}" for path in diff.added], "green", limit)
    _print_keys(session, "removed", [f"- {printable(path)}" for path in diff.removed], "red", limit)
    retyped = [printable(f"~ {each.path}: {each.before} -> {each.after}") for each in diff.retyped]
    _print_keys(session, "retyped", retyped, "yellow", limit)
    _print_changes(session, "modules", diff.modules, limit, _module_row)
    _print_changes(session, "tensors", diff.tensors, limit, _tensor_row)
    session.line()
    _print_summary(session, diff)


def _print_summary(session: Session, diff: Diff) -> None:
    for name in diff.pruned:
        session.line(f"{printable(name)} was pruned in one of them, so it is left out")
    if diff.generators:
        plain = (path.removeprefix("rng/").replace("data/generators/", "the data's ") for path in diff.generators)
        names = ", ".join(map(printable, plain))
        session.line(f"random generators moved on: {names}")
    if diff.same_state:
        session.line(f"The same state, bit for bit ({humane.count(diff.unchanged_count, 'tensor')})")
    else:
        session.line(f"{humane.count(len(diff.tensors), 'tensor')} changed, {diff.unchanged_count} unchanged")


def _title(session: Session, title: str) -> None:
    session.line()
    session.line(session.paint(title, "bold"))


def _print_values(session: Session, title: str, values: Sequence[ValueChange], limit: int) -> None:
    if not values:
        return
    _title(session, title)
    rows = []
    for value in _first(values, limit):
        before, after = _metric_texts(value) if title == "metrics" else _value_texts(value)
        before = "" if value.kind == "added" else before
        after = "(removed)" if value.kind == "removed" else after
        rows.append([f"  {printable(value.path)}", before, "->" if value.kind != "added" else "+", after])
    for line in aligned(session.paint, (Column(), Column(), Column("dim"), Column()), rows):
        session.line(line)
    _say_rest(session, len(values), limit)


def _metric_texts(value: ValueChange) -> tuple[str, str]:
    """The numbers as ``log`` shows them, or in full where that would make them look alike."""
    before, after = (humane.number(each) if isinstance(each, float) else "" for each in (value.before, value.after))
    return (before, after) if before != after else _value_texts(value)


def _value_texts(value: ValueChange) -> tuple[str, str]:
    return _value_text(value.before), _value_text(value.after)


def _value_text(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _print_keys(session: Session, title: str, lines: Sequence[str], color: str, limit: int) -> None:
    if not lines:
        return
    _title(session, title)
    for line in _first(lines, limit):
        session.line(f"  {session.paint(line, color)}")
    _say_rest(session, len(lines), limit)


def _print_changes(
    session: Session, title: str, changes: Sequence[Any], limit: int, row: Callable[[Any], list[str]]
) -> None:
    if not changes:
        return
    from ciuic.cli.tables import print_table

    _title(session, title)
    numbers = ["changed", "L2", "relative", "max abs", "non-finite"]
    headings = [*numbers[:4], "cosine", numbers[4], "path"] if title == "tensors" else [*numbers, "path"]
    rows = [row(change) for change in _first(changes, limit)]
    if not any(change.nonfinite_elements for change in _first(changes, limit)):
        at = headings.index("non-finite")
        headings = [*headings[:at], *headings[at + 1 :]]
        rows = [[*cells[:at], *cells[at + 1 :]] for cells in rows]
    print_table(session, headings, rows, right=headings[:-1], fold="path")
    _say_rest(session, len(changes), limit)


def _module_row(change: ModuleChange) -> list[str]:
    slot = f"  {change.slot}" if change.slot else ""
    return [*_numbers(change), str(change.nonfinite_elements or ""), printable(f"{change.path}{slot}")]


def _tensor_row(change: TensorChange) -> list[str]:
    cosine = "" if change.cosine is None else f"{change.cosine:.6f}"
    return [*_numbers(change), cosine, str(change.nonfinite_elements or ""), printable(change.path)]


def _numbers(change: ModuleChange | TensorChange) -> list[str]:
    relative = "" if change.relative_l2 is None else humane.number(change.relative_l2)
    return [
        humane.percent(change.changed_fraction),
        "" if change.l2 is None else humane.number(change.l2),
        "new" if relative == "inf" else relative,
        "" if change.max_abs is None else humane.number(change.max_abs),
    ]


def _first(items: Sequence[Any], limit: int) -> Iterable[Any]:
    return items[:limit] if limit else items


def _say_rest(session: Session, count: int, limit: int) -> None:
    if limit and count > limit:
        session.line(session.paint(f"  … {count - limit} more (--limit 0 shows all)", "dim"))

"""What one invocation knows: where the repository is, how to print, and how much."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli.discovery import find_repository
from ciuic.cli.json_lines import json_line
from ciuic.cli.paint import Paint, tamed, wants_color

if TYPE_CHECKING:
    from rich.console import Console

    from ciuic.history.notes import Note
    from ciuic.repo import Repo

Progress = Any


class Session:
    """The options before the command's name, made useful."""

    def __init__(
        self,
        directory: str | None = None,
        repository: str | None = None,
        as_json: bool = False,
        color: str = "auto",
        quiet: bool = False,
        verbose: int = 0,
    ) -> None:
        if directory is not None:
            self._enter(directory)
        self.directory = directory
        self.repository = repository
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.color = wants_color(color, sys.stdout, os.environ)
        self.paint = Paint(self.color)
        self.now = datetime.now(timezone.utc)

    @staticmethod
    def _enter(directory: str) -> None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise click.UsageError(f"Cannot work in {directory}: {error.strerror}. Give -C a folder.") from None

    @property
    def draws(self) -> bool:
        """Whether bars and the like are wanted: on a terminal, or with --color always, where the characters exist."""
        try:
            "▁█→".encode(sys.stdout.encoding or "ascii")
        except (LookupError, UnicodeEncodeError):
            return False
        return self.color or sys.stdout.isatty()

    def repository_path(self) -> str:
        """The folder of the repository that this invocation works on; raises NotARepository."""
        return find_repository(self.repository, os.environ if self.directory is None else {})

    def repo(self) -> Repo:
        """The repository, opened."""
        from ciuic.repo import Repo

        return Repo.open(self.repository_path())

    def write(self, text: str) -> None:
        """Print a result; control characters in it are spelt out."""
        sys.stdout.write(tamed(text))

    def line(self, text: str = "") -> None:
        """Print a line of the result."""
        self.write(text.rstrip() + "\n")

    def remark(self, text: str) -> None:
        """Print what is good to know and not the result: not with -q, and never between JSON lines."""
        if not (self.quiet or self.as_json):
            self.line(text)

    def notes(self, repo: Repo) -> dict[str, tuple[Note, ...]]:
        """The notes by snapshot. A damaged log of notes is said on stderr, and hides nothing else."""
        from ciuic.errors import DamageError

        try:
            return repo.notes()
        except DamageError as error:
            sys.stderr.write(f"warning: no notes are shown: {error}\n")
            return {}

    def emit(self, record: Mapping[str, Any]) -> None:
        """Print one JSON object."""
        sys.stdout.write(json_line(record))

    def console(self) -> Console:
        """A rich console for tables on stdout. Off a terminal a table is as wide as it needs to be."""
        from rich.console import Console

        return Console(
            file=sys.stdout,
            force_terminal=self.color,
            color_system="standard" if self.color else None,
            width=None if sys.stdout.isatty() else 4000,
            highlight=False,
            markup=False,
            emoji=False,
        )

    @contextmanager
    def progress(self, title: str, unit: str = "bytes") -> Iterator[Progress]:
        """A callback ``(done, total)`` that draws a bar on stderr, or None where nobody would see one."""
        if self.quiet or self.as_json or not sys.stderr.isatty():
            yield None
            return
        from ciuic.cli.progress import bar

        with bar(title, unit) as advance:
            yield advance


pass_session = click.make_pass_decorator(Session)


def _ask_for_json(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    session = ctx.find_object(Session)
    if asked and session is not None:
        session.as_json = True


class Command(click.Command):
    """A command of ciuic. ``--json`` is understood after its name too; where the others go is said."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(
            click.Option(["--json"], is_flag=True, expose_value=False, hidden=True, callback=_ask_for_json)
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            for option in ctx.find_root().command.params:
                if error.option_name in option.opts:
                    place = " ".join((error.option_name, option.metavar or "")).rstrip()
                    called, _, name = ctx.command_path.partition(" ")
                    raise click.UsageError(
                        f"{error.option_name} goes before the command: `{called} {place} {name} …`.", ctx
                    ) from None
            raise

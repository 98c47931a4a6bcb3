"""What the shell completes after TAB: names out of the repository that the command would use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ciuic.cli.discovery import find_repository

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:  # generic from click 8.4 on
    _Text = click.ParamType


class _Name(_Text):
    """A text argument whose completions are names out of the repository."""

    branches = True
    tags = True
    extra: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return [CompletionItem(name) for name in self.names(ctx) if name.startswith(incomplete)]
        except Exception:  # a shell that waits for TAB has no use for an error
            return []

    def names(self, ctx: click.Context) -> list[str]:
        """Every name that could stand here."""
        from ciuic.repo import Repo

        options = ctx.find_root().params
        directory = options.get("directory")
        if directory:
            os.chdir(directory)
        repo = Repo.open(find_repository(options.get("repository"), {} if directory else os.environ))
        names = [*self.extra]
        if self.branches:
            names += sorted(repo.branches())
        if self.tags:
            names += sorted(repo.tags())
        return names


class _Revision(_Name):
    extra = ("HEAD",)


class _Branch(_Name):
    tags = False


class _Tag(_Name):
    branches = False


class _Ref(_Name):
    extra = ("HEAD",)
    tags = False


REVISION = _Revision("revision")
BRANCH = _Branch("branch")
TAG = _Tag("tag")
REF = _Ref("ref")

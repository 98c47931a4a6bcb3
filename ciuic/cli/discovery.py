"""Which folder is the repository?"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from ciuic.errors import NotARepository

VARIABLE = "CIUIC_REPO"
HIDDEN = ".ciuic"
USUAL = "snapshots"  # what the guides give to SnapshotManager


def find_repository(named: str | None, environment: Mapping[str, str]) -> str:
    """The repository's folder: ``named``, else ``CIUIC_REPO``, else what the current folder leads to.

    A named folder with a file ``format`` is returned unseen: opening it says what is wrong with it.
    """
    given = named or environment.get(VARIABLE)
    if given:
        path = os.path.abspath(given)
        if not os.path.lexists(os.path.join(path, "format")):
            by = "" if named else f", which {VARIABLE} names,"
            raise NotARepository(f"{path}{by} is not a ciuic repository.{_what_to_do(path)}")
        return path
    here = os.getcwd()
    found = repository_from(here)
    if found is None:
        raise NotARepository(f"No ciuic repository in {here} or any folder above it.{_what_to_do(here)}")
    return found


def repository_from(folder: str) -> str | None:
    """What commands in ``folder`` find when none is named."""
    return next(filter(is_repository, _folders_upwards(folder)), None)


def repository_around(path: str) -> str | None:
    """The repository among whose own files ``path`` lies."""
    return next(filter(is_repository, map(str, Path(path).parents)), None)


def _what_to_do(folder: str) -> str:
    below = _repositories_in(folder)
    if below:
        return f"\nThere is one in it: `ciuic --repo {shlex.quote(os.path.relpath(below[0]))} …`."
    return "\nA SnapshotManager makes one, and so does `ciuic init`; `ciuic --repo DIR …` names one."


def _repositories_in(folder: str) -> list[str]:
    """Those right below the folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if is_repository(entry.path))
    except OSError:
        return []


def place_for_new_repository(named: str | None, environment: Mapping[str, str]) -> str:
    """Where ``ciuic init`` without a folder puts a repository: ``.ciuic`` in the current one unless named."""
    return os.path.abspath(named or environment.get(VARIABLE) or HIDDEN)


def is_repository(folder: str) -> bool:
    """True when the folder holds a ``format`` file of ciuic's; other programs may have files of that name."""
    try:
        with open(os.path.join(folder, "format"), "rb") as file:
            return file.read(5) == b"ciuic"
    except OSError:
        return False


def _folders_upwards(folder: str) -> Iterator[str]:
    while True:
        yield folder
        yield os.path.join(folder, HIDDEN)
        yield os.path.join(folder, USUAL)
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent

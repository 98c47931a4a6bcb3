"""Which folder is the repository?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ciuic.errors import NotARepository

VARIABLE = "CIUIC_REPO"
HIDDEN = ".ciuic"
USUAL = "snapshots"  # what the guides give to SnapshotManager


def find_repository(named: str | None, environment: Mapping[str, str]) -> str:
    """The repository's folder: ``named``, else ``CIUIC_REPO``, else what the current folder leads to.

    A named folder is returned unseen: opening it says what is wrong with it.
    """
    given = named or environment.get(VARIABLE)
    if given:
        return os.path.abspath(given)
    here = os.getcwd()
    for folder in _folders_upwards(here):
        if is_repository(folder):
            return folder
    raise NotARepository(
        f"No ciuic repository in {here} or any folder above it.\n"
        "Make one with `ciuic init`, or name one with --repo DIR."
    )


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

"""What a repository's folder is made of, and making one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from ciuic.errors import NetworkStorage, ReadOnlyStorage, RepositoryError, RepositoryExists
from ciuic.store.config import DELTAS, ID_BYTES, Config, Format, encode_config, encode_format, read_config
from ciuic.store.fs import FileSystem
from ciuic.store.network import Mount, allowed_by_environment, mount_of, refusal
from ciuic.store.refs import HEADS, TAGS

FOLDERS = ("packs", "refs", HEADS.rstrip("/"), TAGS.rstrip("/"), "index", "trash", "quarantine", "tmp")
FILES = ("lock", "gate", "generation", "config.toml", "format", "HEAD", "prunes", "notes", "bisect")


def make(fs: FileSystem, root: str, chunk_size: int | None) -> None:
    """Make a repository in a new or empty folder. ``format`` is written last: before it there is no repository."""
    if os.path.exists(os.path.join(root, "format")):
        raise RepositoryExists(f"{root} is a ciuic repository already. Open it, or choose another folder.")
    mount = network_mount(fs, root)
    if mount is not None and not allowed_by_environment():
        raise NetworkStorage(refusal(mount, root))
    ours = {name.split("/")[0] for name in (*FOLDERS, *FILES)}
    try:
        if set(fs.list_folder(root)) - ours:
            raise RepositoryError(f"{root} holds other files. Choose a new or an empty folder.")
        _make_durable_folder(fs, root)
    except NotADirectoryError as error:
        raise RepositoryError(f"{error.filename} is a file. Choose a new or an empty folder.") from None
    for folder in FOLDERS:
        fs.make_folder_if_missing(os.path.join(root, folder))
    fs.sync_folder(os.path.join(root, "refs"))
    for name in ("lock", "gate"):
        with contextlib.suppress(FileExistsError):
            fs.close(fs.create(os.path.join(root, name)))
    config = Config() if chunk_size is None else replace(Config(), chunk_size=chunk_size)
    temporary = os.path.join(root, "tmp", f"init-{os.getpid()}-{os.urandom(6).hex()}")
    fs.write_file(os.path.join(root, "config.toml"), encode_config(config), temporary)
    read_config(fs, os.path.join(root, "config.toml"))
    fs.write_file(os.path.join(root, "generation"), b"0\n", temporary)
    descriptor = fs.create(temporary)
    try:
        fs.write(descriptor, [encode_format(Format(os.urandom(ID_BYTES), frozenset((DELTAS,))))], temporary)
        fs.sync(descriptor, temporary)
    finally:
        fs.close(descriptor)
    try:
        fs.link(temporary, os.path.join(root, "format"))
    except FileExistsError:
        raise RepositoryExists(f"{root} was made a repository by another process just now. Open it.") from None
    finally:
        fs.remove_if_there(temporary)
    fs.sync_folder(root)


def _make_durable_folder(fs: FileSystem, root: str) -> None:
    """Make ``root`` and what is missing above it; each name is durable on return."""
    missing = [root]
    while not os.path.isdir(os.path.dirname(missing[-1])):
        missing.append(os.path.dirname(missing[-1]))
    for folder in reversed(missing):
        fs.make_folder_if_missing(folder)
        # Also when it was there: whoever made it may have died before this. But its parent need not be ours to read.
        with contextlib.suppress(ReadOnlyStorage):
            fs.sync_folder(os.path.dirname(folder))


def network_mount(fs: FileSystem, path: str) -> Mount | None:
    """The network file system on which a path lies, or will; None for a local one, and where nothing tells."""
    mount = mount_of(fs.mountinfo(), os.path.realpath(path))
    return mount if mount is not None and mount.shared else None


def check_parts(root: str) -> None:
    """RepositoryError when a part of the repository is a link: work on it must stay inside its folder."""
    for name in (*FOLDERS, *FILES):
        if os.path.islink(os.path.join(root, name)):
            raise RepositoryError(
                f"{os.path.join(root, name)} is a link. Move what it leads to here, or do not trust it."
            )

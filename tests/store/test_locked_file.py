"""A file that says by its lock that somebody is there."""

import os
import shutil

import pytest

from ciuic.errors import StorageError
from ciuic.store.fs import FileSystem
from ciuic.store.locked_file import LockedFile
from ciuic.store.locks import is_held


def test_it_is_locked_for_as_long_as_it_is_held(tmp_path):
    """Never there without its lock, and gone with ``remove``."""
    fs = FileSystem()
    file = LockedFile(fs, str(tmp_path / "here"))
    assert os.listdir(tmp_path) == ["here"] and is_held(fs, file.path) and file.held
    file.let_go()
    assert not is_held(fs, file.path) and not file.held
    file.remove()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_emptied_meanwhile(tmp_path):
    """gc may take the new file away before it has its name: it is made again."""

    class Emptied(FileSystem):
        times = 2

        def rename(self, old, new):
            if self.times:
                self.times -= 1
                os.remove(old)
            super().rename(old, new)

    file = LockedFile(Emptied(), str(tmp_path / "here"))
    assert os.listdir(tmp_path) == ["here"] and is_held(FileSystem(), file.path)
    file.remove()


def test_nothing_is_left_of_one_that_could_not_be_made(tmp_path):
    """A disk that fails, or a folder that is gone."""

    class Failing(FileSystem):
        def rename(self, old, new):
            raise StorageError("no")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError):
        LockedFile(Failing(), str(tmp_path / "here"))
    assert os.listdir(tmp_path) == []
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        LockedFile(FileSystem(), str(tmp_path / "here"))
    assert len(os.listdir("/proc/self/fd")) == before

"""A repository that cannot be written: everything that looks works, everything that writes is a typed error."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import ciuic

LOOK = """
import getpass, importlib, os, pkgutil, platform, pwd, socket, sys
import torch
import ciuic
for module in pkgutil.walk_packages(ciuic.__path__, "ciuic."):  # what is imported later, nobody may read
    if "__main__" not in module.name and "demo" not in module.name:
        importlib.import_module(module.name)
importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
ciuic.codec._zstandard()
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
repo = ciuic.Repo(sys.argv[1])
assert [s.step for s in repo.log()] == [1, 0] and repo.resolve("step:0").step == 0
assert repo.resolve(repo.resolve("HEAD").id[:10]).step == 1
assert repo.branches().keys() == {"main"} and repo.reflog("main")
assert float(repo.load("HEAD")["model"]["w"].sum()) == 5000.0
assert len(repo.diff("HEAD~1", "HEAD").tensors) == 1
model = {"w": torch.zeros(5000)}
repo.restore("HEAD~1", model=model)
assert not repo.fsck(read_data=True).problems
assert repo.stats().snapshots == 2
for write in (
    lambda: repo.commit(model, step=3), lambda: repo.branch("x"), lambda: repo.tag("x"), lambda: repo.reset("HEAD~1"),
    lambda: repo.switch("HEAD~1"), lambda: repo.checkout("HEAD~1"), lambda: repo.prune("HEAD"), lambda: repo.gc(),
):
    try:
        write()
    except ciuic.ReadOnlyStorage as error:
        assert "Make it writable, or work on a copy" in str(error), error
    else:
        raise AssertionError("written?")
print("well")
"""


@pytest.fixture
def public_folder():
    """One that a user without rights may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("index", ["there", "gone"])
def test_a_read_only_repository_can_be_looked_at(public_folder, index):
    """As a user who may read but not write: log, load, diff, restore, fsck work; commit, branch, gc … say why not."""
    path = public_folder / "run"
    repo = ciuic.Repo.init(path)
    model = {"w": torch.zeros(5000)}
    repo.commit(model, step=0)
    model["w"] += 1
    repo.commit(model, step=1)
    if index == "gone":
        shutil.rmtree(path / "index")
    everything = [path, *path.rglob("*")]
    for each in everything:
        each.chmod(0o555 if each.is_dir() else 0o444)
    before = {each: each.stat().st_mtime_ns for each in everything if each.is_file()}
    try:
        done = subprocess.run([sys.executable, "-c", LOOK, str(path)], capture_output=True, text=True, timeout=100)
    finally:
        for each in everything:
            each.chmod(0o755 if each.is_dir() else 0o644)
    assert done.stdout == "well\n", done.stderr
    assert {each: each.stat().st_mtime_ns for each in before} == before

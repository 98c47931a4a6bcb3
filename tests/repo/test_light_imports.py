"""What needs no tensors starts without torch and numpy."""

import subprocess
import sys

import pytest

import ciuic

LIGHT = """
import sys
import ciuic
assert ciuic.CiuicError and ciuic.Snapshot and "Repo" in dir(ciuic) and ciuic.__version__
repo = ciuic.Repo.open(sys.argv[1])
snapshot = repo.resolve("HEAD")
assert [each.step for each in repo.log()] == [1, 0] and repo.resolve("best:loss").step == 1
repo.branch("x", at="HEAD~1")
repo.tag("t")
repo.switch("x")
repo.switch("main")
repo.reset("HEAD~1")
repo.reset("HEAD@{1}") if False else repo.reset("main@{1}")
repo.reflog(), repo.branches(), repo.tags(), repo.head(), repo.stats(), repo.find("main:extra")
repo.delete_note("HEAD", repo.note("HEAD", "x").key), repo.notes()
repo.bisection().mark("good", "HEAD~1"), repo.bisection().mark("bad", "HEAD"), repo.bisection().standing()
repo.prune("HEAD~1")
repo.delete_branch("x")
assert not repo.fsck(read_data=True).problems
repo.gc(dry_run=True)
repo.gc()
heavy = {"torch", "numpy", "safetensors", "rich", "zstandard"} & set(sys.modules)
print(sorted(heavy - {"zstandard"}))
"""


@pytest.fixture
def two(path, commit):
    repo = ciuic.Repo.init(path)
    for step in range(2):
        commit(repo, step, metrics={"loss": 1.0 - step})
    return path


def test_looking_and_moving_refs_need_no_torch(two):
    """Everything but commit, restore, load and diff."""
    done = subprocess.run([sys.executable, "-c", LIGHT, str(two)], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_importing_ciuic_imports_next_to_nothing():
    """Not even the store."""
    code = "import sys, ciuic; print([m for m in sys.modules if m.startswith(('ciuic.', 'torch', 'numpy', 'lmdb'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "[]\n", done.stderr


def test_every_public_name_is_there():
    """The errors too, straight from ``ciuic``."""
    for name in ciuic.__all__:
        assert getattr(ciuic, name) is not None
    assert issubclass(ciuic.StateMismatch, ciuic.CiuicError)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        ciuic.nonsense  # noqa: B018

"""Branches and tags: made, deleted, made again; bad names."""

import pytest

import ciuic

BAD = [
    "", "HEAD", "step", "best", "-", "@", "step@x", "HEAD@2", "-x", ".x", "/x", "x/", "x.", "a//b", "a..b", "a/.b",
    "a b", "a\tb", "a\nb", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a\\b", "a@{b", "x.lock", "x.lock/y", "..", ".",
    "../../x", "a\0b", "\x7f", "x" * 101, "ä" * 60, "\ud800", "x\u3000", "\u2003x",
]  # fmt: skip
GOOD = [
    "a",
    "main2",
    "feature/x",
    "a.b",
    "a-b_c",
    "ü",
    "实验",
    "v1.0+x",
    "a@b",
    "steps",
    "best-of",
    "deadbeef",
    "x" * 100,
]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_bad_names_are_refused(repo, commit, kind, name):
    """InvalidRefName, and nothing else, for names that revisions or files could not bear."""
    commit(repo, 1)
    with pytest.raises(ciuic.InvalidRefName):
        getattr(repo, kind)(name)
    with pytest.raises(ciuic.UnknownRef):
        getattr(repo, f"delete_{kind}")(name)


@pytest.mark.parametrize("name", GOOD)
def test_good_names_work_everywhere(repo, path, commit, name):
    """As branch, as tag, as revision, after HEAD has been on it."""
    first = commit(repo, 1)
    repo.branch(name)
    repo.checkout(name)
    second = commit(repo, 2)
    fresh = ciuic.Repo(path)
    assert fresh.head().branch == name and fresh.resolve(name).id == second.id
    assert fresh.resolve(f"{name}~1").id == fresh.resolve(f"{name}@{{1}}").id == first.id
    assert fresh.resolve(f"{name}@step:1").id == first.id
    repo.tag(name, at=first)
    assert repo.tags() == {name: first.id} and repo.resolve(name).id == second.id, "a branch goes before a tag"
    repo.checkout("main")
    repo.delete_branch(name)
    assert repo.resolve(name).id == first.id


def test_names_do_not_hinder_each_other(repo, commit):
    """``a`` and ``a/b`` side by side, also when one of them is gone; upper and lower case differ."""
    commit(repo, 1)
    for name in ("a", "a/b", "a/b/c", "A"):
        repo.branch(name)
    repo.delete_branch("a")
    repo.branch("a%2Fb")
    assert set(repo.branches()) == {"main", "a/b", "a/b/c", "A", "a%2Fb"}


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_a_ref_is_made_deleted_and_made_again(repo, commit, kind):
    """Its log goes on over the tombstone."""
    first, second = commit(repo, 1), commit(repo, 2)
    make, delete = getattr(repo, kind), getattr(repo, f"delete_{kind}")
    listing = repo.branches if kind == "branch" else repo.tags
    make("x", at="main~1")
    with pytest.raises(ciuic.RefExists, match="'x' exists"):
        make("x")
    delete("x")
    assert "x" not in listing()
    with pytest.raises(ciuic.UnknownRef, match="There is no"):
        delete("x")
    with pytest.raises(ciuic.UnknownRevision):
        repo.resolve("x")
    make("x", at=second)
    assert listing()["x"] == second.id
    assert [entry.new for entry in repo.reflog("x")] == [second.id, None, first.id]


def test_a_ref_needs_a_snapshot(repo, commit):
    """In an empty repository there is nothing to point to."""
    with pytest.raises(ciuic.UnknownRevision):
        repo.branch("x")
    commit(repo, 1)
    with pytest.raises(ciuic.UnknownRevision):
        repo.tag("x", at="nope")
    assert repo.branches().keys() == {"main"} and repo.tags() == {}


def test_two_objects_making_one_branch(repo, path, commit):
    """The second is told."""
    commit(repo, 1)
    other = ciuic.Repo(path)
    repo.branch("x")
    with pytest.raises(ciuic.RefExists):
        other.branch("x")


def test_opening_and_making(tmp_path):
    """``init`` makes, ``Repo(path)`` opens, ``open(create=True)`` does either."""
    with pytest.raises(ciuic.NotARepository):
        ciuic.Repo(tmp_path / "a")
    with pytest.raises(ciuic.NotARepository):
        ciuic.Repo.open(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    repo = ciuic.Repo.open(tmp_path / "a" / "b", create=True)
    assert repr(repo) == f"Repo({repo.path!r})" and repo.path == str(tmp_path / "a" / "b")
    assert ciuic.Repo.open(tmp_path / "a" / "b", create=True).path == repo.path
    with pytest.raises(ciuic.RepositoryExists):
        ciuic.Repo.init(tmp_path / "a" / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ciuic.RepositoryError, match="holds other files"):
        ciuic.Repo.init(tmp_path / "full")
    (tmp_path / "file").write_text("x")
    for make in (ciuic.Repo.init, ciuic.Repo):
        with pytest.raises(ciuic.CiuicError):
            make(tmp_path / "file")
    with pytest.raises(ciuic.InvalidConfig):
        ciuic.Repo.init(tmp_path / "odd", chunk_size=4097)

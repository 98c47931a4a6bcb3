"""Which branch a run writes to, and where HEAD stands: nothing is orphaned in silence."""

import pytest

import ciuic


def steps(repo, revision=None):
    return [snapshot.step for snapshot in repo.log(revision)]


def test_a_new_repository_has_an_empty_log_and_an_unborn_main(repo):
    """Not an error."""
    assert list(repo.log()) == [] and repo.branches() == {} and repo.tags() == {} and repo.reflog() == []
    assert (repo.head().branch, repo.head().snapshot) == ("main", None)
    with pytest.raises(ciuic.UnknownRevision, match="no snapshot on this branch yet"):
        repo.resolve("HEAD")


def test_commits_are_a_line_on_main(repo, commit, warnings_of):
    """Each has the one before it as its parent."""
    snapshots = [commit(repo, step) for step in range(4)]
    assert [snapshot.parents for snapshot in snapshots] == [(), *((each.id,) for each in snapshots[:-1])]
    assert repo.branches() == {"main": snapshots[-1].id}
    assert steps(repo) == [3, 2, 1, 0] and steps(repo, "main~1") == [2, 1, 0]
    assert [snapshot.step for snapshot in repo.log(limit=2)] == [3, 2] and list(repo.log(limit=0)) == []
    assert warnings_of() == []


def test_the_next_run_resumes_from_head(repo, path, commit):
    """A second process opens the repository and goes on."""
    commit(repo, 1)
    again = ciuic.Repo(path)
    second = commit(again, 2)
    assert second.parents == (repo.resolve("HEAD~1").id,) and list(again.branches()) == ["main"]


def test_a_restore_of_an_older_snapshot_leaves_the_branch(repo, commit, warnings_of):
    """The next commit makes a branch named after where it left, HEAD goes along, and a warning says so."""
    for step in (99, 199, 299):
        commit(repo, step)
    repo.restore("step:199", extra={})
    assert repo.head().branch == "main", "restoring alone moves nothing"
    new = commit(repo, 210)
    assert new.parents == (repo.resolve("main~1").id,)
    assert steps(repo, "main") == [299, 199, 99] and steps(repo) == [210, 199, 99]
    assert repo.head().branch == "main-step-199"
    (message,) = warnings_of()
    assert "main-step-199" in message and "not the end of a branch" in message
    commit(repo, 220)
    assert steps(repo) == [220, 210, 199, 99] and warnings_of() == []


def test_leaving_again_gives_another_name(repo, commit):
    """Names are counted, and do not pile up."""
    for step in (1, 2):
        commit(repo, step)
    names = []
    for _ in range(3):
        repo.restore("main~1", extra={})
        commit(repo, 5)
        names.append(repo.head().branch)
    commit(repo, 6)
    repo.restore("HEAD~1", extra={})
    commit(repo, 7)
    assert names == ["main-step-1", "main-step-1-2", "main-step-1-3"]
    assert repo.head().branch == "main-step-5"


def test_a_restore_of_the_tip_stays_on_the_branch(repo, path, commit, warnings_of):
    """By its name, its step, its id, HEAD, or the Snapshot."""
    tip = commit(repo, 0)
    for number, revision in enumerate(("main", "step:1", "the id", "HEAD", "@", "the snapshot"), start=1):
        again = ciuic.Repo(path)
        again.restore({"the id": tip.id, "the snapshot": tip}.get(revision, revision), extra={})
        tip = commit(again, number)
    assert list(repo.branches()) == ["main"] and warnings_of() == []


def test_a_commit_on_a_detached_head_makes_a_branch(repo, commit, warnings_of):
    """``checkout`` of anything but a branch detaches; the next commit leaves with a branch of its own."""
    for step in (1, 2, 3):
        commit(repo, step)
    old = repo.checkout("main~2")
    assert (repo.head().branch, repo.head().snapshot) == (None, old.id)
    commit(repo, 9)
    assert repo.head().branch == "main-step-1" and steps(repo) == [9, 1]
    assert "main-step-1" in warnings_of()[0]


@pytest.mark.parametrize("step", [None, -5, 10**30])
def test_a_branch_left_at_no_common_step_is_named_after_the_id(repo, commit, step):
    """Without a step the search for a name once did not end."""
    first = commit(repo, step)
    commit(repo, 2)
    repo.checkout(first)
    commit(repo, 3)
    assert repo.head().branch == f"main-{first.id[:8]}" and steps(repo) == [3, step]


def test_a_new_process_on_a_detached_head(repo, path, commit, warnings_of):
    """It does not know which branch was left."""
    commit(repo, 1)
    commit(repo, 2)
    repo.switch("HEAD~1")
    again = ciuic.Repo(path)
    commit(again, 5)
    assert again.head().branch == "detached-step-1" and len(warnings_of()) == 1
    assert steps(again) == [5, 1]


def test_a_lost_race_goes_on_on_a_new_branch_and_head_stays_with_the_winner(repo, path, commit, warnings_of):
    """Both runs go on, each on a line of its own."""
    commit(repo, 1)
    loser = ciuic.Repo(path)
    commit(repo, 2)
    commit(loser, 3)
    assert "Another process has moved main" in warnings_of()[0]
    assert loser.head().branch == "main"
    commit(repo, 4)
    commit(loser, 5)
    assert steps(repo, "main") == [4, 2, 1] and steps(repo, "main-step-1") == [5, 3, 1]
    assert warnings_of() == []


def test_a_lost_race_for_the_first_snapshot(repo, path, commit, warnings_of):
    """There is no step to be named after."""
    loser = ciuic.Repo(path)
    commit(repo, 1)
    commit(loser, 2)
    assert repo.branches().keys() == {"main", "main-2"} and len(warnings_of()) == 1
    assert steps(repo, "main-2") == [2]


def test_a_shells_checkout_does_not_move_a_running_trainer(repo, path, commit, warnings_of):
    """It decides where the next run resumes."""
    for step in (1, 2):
        commit(repo, step)
    shell = ciuic.Repo(path)
    shell.branch("other", at="main~1")
    shell.switch("other")
    commit(repo, 3)
    assert steps(repo, "main") == [3, 2, 1] and steps(repo, "other") == [1]
    assert repo.head().branch == "other" and warnings_of() == []
    fresh = ciuic.Repo(path)
    commit(fresh, 4)
    assert steps(repo, "other") == [4, 1]


def test_head_that_moved_meanwhile_stays(repo, path, commit, warnings_of):
    """A run that leaves its branch does not take HEAD from whoever moved it; it says how to get back."""
    for step in (1, 2):
        commit(repo, step)
    repo.restore("main~1", extra={})
    shell = ciuic.Repo(path)
    shell.branch("other")
    shell.switch("other")
    commit(repo, 3)
    assert repo.head().branch == "other"
    messages = warnings_of()
    assert len(messages) == 2 and "`ciuic checkout main-step-1`" in messages[1]


def test_a_branch_deleted_under_a_trainer(repo, path, commit, warnings_of):
    """Its next commit keeps the line on a new branch, and says so; HEAD is where the shell has put it."""
    commit(repo, 1)
    shell = ciuic.Repo(path)
    shell.branch("other")
    shell.switch("other")
    shell.delete_branch("main")
    commit(repo, 2)
    first, second = warnings_of()
    assert "The branch main was deleted" in first and "`ciuic checkout main-step-1`" in second
    assert steps(repo, "main-step-1") == [2, 1] and repo.head().branch == "other"


def test_the_branch_of_head_cannot_be_deleted(repo, commit):
    """The next run would find an empty repository."""
    commit(repo, 1)
    with pytest.raises(ciuic.RefError, match="HEAD is on 'main'"):
        repo.delete_branch("main")
    assert list(repo.branches()) == ["main"]


def test_a_checkout_of_a_branch_follows_it(repo, commit, warnings_of):
    """And so does ``switch``; switching to where HEAD is brings a run back that had left in thought."""
    for step in (1, 2):
        commit(repo, step)
    repo.branch("other", at="main~1")
    repo.checkout("other")
    commit(repo, 3)
    assert steps(repo, "other") == [3, 1]
    repo.switch("main")
    commit(repo, 4)
    assert steps(repo, "main") == [4, 2, 1]
    repo.restore("main~1", extra={})
    repo.switch("main")
    commit(repo, 5)
    assert steps(repo, "main") == [5, 4, 2, 1] and warnings_of() == []


def test_switch_says_where_it_went(repo, commit):
    """None for the branch of an empty repository."""
    assert repo.switch("main") is None
    first = commit(repo, 1)
    assert repo.switch("main") == first and repo.switch(first) == first
    assert repo.head().branch is None


def test_reset_moves_the_branch_and_the_run_with_it(repo, commit, warnings_of):
    """The old tip is in the reflog; the next commit goes on from the new one, on the same branch."""
    for step in (1, 2, 3):
        commit(repo, step)
    old, new = repo.resolve("main").id, repo.resolve("main~2").id
    assert repo.reset("main~2", dry_run=True) == (old, new)
    assert repo.resolve("main").id == old
    assert repo.reset("main~2") == (old, new)
    assert steps(repo) == [1] and repo.resolve("main@{1}").id == old
    commit(repo, 4)
    assert steps(repo) == [4, 1] and warnings_of() == []


def test_reset_of_the_followed_branch_while_head_is_elsewhere(repo, path, commit):
    """A trainer that resets its own branch stays on it. It once jumped to the branch that a shell had checked out."""
    for step in (1, 2):
        commit(repo, step)
    shell = ciuic.Repo(path)
    shell.branch("other")
    shell.switch("other")
    repo.reset("main~1", branch="main")
    commit(repo, 5)
    assert steps(repo, "main") == [5, 1] and steps(repo, "other") == [2, 1]


def test_restore_then_reset_is_a_roll_back(repo, commit, warnings_of):
    """After both, the run goes on on the branch itself."""
    for step in (1, 2, 3):
        commit(repo, step)
    snapshot = repo.restore("main~1", extra={})
    repo.reset(snapshot)
    commit(repo, 4)
    assert steps(repo, "main") == [4, 2, 1] and warnings_of() == []


def test_reset_of_another_branch_and_of_a_detached_head(repo, commit):
    """Another branch moves alone; a detached HEAD moves itself."""
    for step in (1, 2):
        commit(repo, step)
    repo.branch("other")
    repo.reset("main~1", branch="other")
    assert steps(repo, "other") == [1] and steps(repo) == [2, 1]
    repo.switch("main~1")
    repo.reset("main")
    assert (repo.head().branch, repo.head().snapshot) == (None, repo.resolve("main").id)
    with pytest.raises(ciuic.UnknownRef, match="There is no branch 'nope'"):
        repo.reset("main", branch="nope")


def test_a_reset_by_another_process_is_a_lost_race(repo, path, commit, warnings_of):
    """The trainer's line goes on beside it."""
    for step in (1, 2):
        commit(repo, step)
    ciuic.Repo(path).reset("main~1")
    commit(repo, 3)
    assert steps(repo, "main") == [1] and steps(repo, "main-step-2") == [3, 2, 1] and len(warnings_of()) == 1


@pytest.mark.parametrize("name", ["x" * 100, "ö" * 33, "a/" * 49 + "b", "x" * 95 + ".a.b"])
def test_a_branch_with_a_long_name_can_be_left(repo, path, commit, name):
    """The new name once was longer than a ref log takes, and HEAD was damaged for good."""
    commit(repo, 1)
    commit(repo, 2)
    repo.branch(name)
    repo.checkout(name)
    for step in (10**30, 3):
        repo.restore("main~1", extra={})
        repo.reset("main~1")
        repo.switch(name)
        commit(repo, step)
        repo.restore("HEAD", extra={})
        repo.restore("HEAD~1", extra={})
        commit(repo, 9)
    fresh = ciuic.Repo(path)
    assert fresh.head().branch.encode() and len(fresh.head().branch.encode()) <= 100
    assert steps(fresh)[0] == 9


def test_the_reflog_tells_the_story(repo, path, commit):
    """Newest first, with what was done and by whom; a deleted branch keeps its log."""
    commit(repo, 1, message="first")
    repo.branch("other")
    repo.checkout("other")
    repo.checkout("main~0")
    repo.checkout("main")
    assert [entry.action for entry in repo.reflog()] == [
        "checkout: moving to main",
        "checkout: moving to main~0",
        "checkout: moving to other",
    ]
    assert [entry.index for entry in repo.reflog()] == [0, 1, 2]
    (entry,) = repo.reflog("main")
    assert (entry.action, entry.old, entry.new) == ("commit: first", None, repo.resolve("main").id)
    assert entry.time.tzinfo is not None and str(__import__("os").getpid()) in entry.actor
    repo.delete_branch("other")
    assert [each.action for each in repo.reflog("other")] == ["delete other", "branch: created from HEAD"]
    assert repo.reflog("refs/heads/main") == repo.reflog("main")
    for name in ("nope", "", ".", "..", "../HEAD", "x" * 300, "\ud800", "a\0b"):
        with pytest.raises(ciuic.UnknownRef):
            repo.reflog(name)

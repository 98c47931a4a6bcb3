"""Every form of a revision, and what the errors say."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ciuic
from ciuic.store import reflog

LOSSES = {99: float("nan"), 199: 2.0, 299: 1.0, 399: 2.5, 499: 1.5}
HOUR_NS = 3600 * 10**9
START_NS = 1_750_000_000 * 10**9


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """main: 99 … 499, an hour between two; fork: 99, 199, 299, then 150 and one without a step; tag good at 199."""
    folder = tmp_path_factory.mktemp("revisions") / "run"
    repo = ciuic.Repo.init(folder)
    with pytest.MonkeyPatch.context() as patch:

        def hours(number):
            patch.setattr(reflog, "time", SimpleNamespace(time_ns=lambda: START_NS + number * HOUR_NS))

        for number, (step, loss) in enumerate(LOSSES.items()):
            hours(number)
            repo.commit(extra={"x": {"y.z": step}}, step=step, metrics={"loss": loss, "acc": step / 1000}, rng=False)
        repo.tag("good", at="main~3")
        repo.branch("fork", at="main~2")
        repo.switch("fork")
        hours(6)
        repo.commit(extra={}, step=150, rng=False)
        repo.commit(extra={}, rng=False)
        repo.switch("main")
        for number in range(40):  # ids that begin alike
            repo.commit(extra={"n": number}, step=1000 + number, rng=False)
        repo.branch("many")
        repo.reset("main~40")
    return repo


FORMS = {
    "main": 499, "HEAD": 499, "@": 499, "good": 199, "fork": None, "refs/heads/main": 499, "refs/tags/good": 199,
    " main ": 499,
    "main~": 399, "main~0": 499, "main~3": 199, "main^": 399, "main^^": 299, "main^0": 499, "main^1~2": 199,
    "HEAD~4": 99, "good~1": 99, "fork~1^": 299,
    "main@{0}": 499, "main@{41}": 499, "main@{42}": 399, "main@{44}~1": 99, "HEAD@{0}": 499, "@{42}": 399,
    "good@{0}": 199,
    "step:499": 499, "step:99": 99, "step:<=498": 399, "step:<=499": 499, "step:<=100000": 499, "main@step:199": 199,
    "fork@step:150": 150, "fork@step:199": 199, "fork@step:<=250": 199, "fork@step:<=198": 150,
    "HEAD@step:99": 99, "good@step:99": 99, "step:499~2": 299, "many@step:<=1005": 1005,
    "best:loss": 299, "best:-loss": 399, "best:acc": 99, "best:-acc": 499, "good@best:-acc": 199,
    "main@best:loss^": 199,
}  # fmt: skip


@pytest.mark.parametrize("revision", FORMS)
def test_each_form_names_its_snapshot(history, revision):
    """By the step that it has."""
    assert history.resolve(revision).step == FORMS[revision]


def test_times_in_the_reflog(history):
    """Ages and ISO dates: what the branch was then."""

    def at(hours):
        return (datetime.fromtimestamp(START_NS / 1e9, timezone.utc) + timedelta(hours=hours)).isoformat()

    assert history.resolve(f"main@{{{at(0.5)}}}").step == 99
    assert history.resolve(f"main@{{{at(3)}}}").step == 399
    assert history.resolve(f"main@{{{at(3.5).replace('+00:00', 'Z')}}}").step == 399
    assert history.resolve("main@{now}").step == 499
    assert history.resolve("main@{1 second ago}").step == 499
    for when in ("100 years ago", at(-1)):
        with pytest.raises(ciuic.UnknownRevision, match="its log begins only at 2025-06-15 15:06:40 UTC"):
            history.resolve(f"main@{{{when}}}")


def test_a_snapshot_object_is_a_revision(history):
    """Wherever a string is."""
    snapshot = history.resolve("good")
    assert history.resolve(snapshot) == snapshot and hash(history.resolve(snapshot)) == hash(snapshot)
    assert [each.step for each in history.log("good")] == [199, 99]


def test_ids_and_their_prefixes(history):
    """Four digits or more, odd numbers of them too; an ambiguous one lists the candidates, the newest first."""
    snapshots = list(history.log("many"))
    for snapshot in snapshots[:5]:
        assert history.resolve(snapshot.id) == snapshot
        for length in (12, 13, 63):
            assert history.resolve(snapshot.id[:length]) == snapshot
    assert len(snapshots) == 45


def test_an_ambiguous_prefix_lists_its_candidates(tmp_path):
    """Small repositories have none, so the snapshots are tried until two begin alike."""
    repo = ciuic.Repo.init(tmp_path / "run")
    seen = {}
    for number in range(3000):
        snapshot = repo.commit(extra={}, step=number, rng=False)
        if (other := seen.setdefault(snapshot.id[:4], snapshot)) is not snapshot:
            break
    else:
        pytest.skip("no two of 3 000 ids begin alike")
    with pytest.raises(ciuic.AmbiguousRevision) as caught:
        repo.resolve(snapshot.id[:4])
    assert caught.value.candidates == (snapshot.id, other.id)
    assert "could be 2 snapshots" in str(caught.value) and f"step={other.step}" in str(caught.value)
    with pytest.raises(ciuic.UnknownRevision):
        repo.resolve(snapshot.id[:3])


def test_a_path_after_a_colon(history):
    """``find`` gives it apart; branches are told from other forms."""
    found = history.find("main:extra/x/y.z")
    assert (found.snapshot.step, found.branch, found.path) == (499, "main", "extra/x/y.z")
    found = history.find("step:199~1:extra")
    assert (found.snapshot.step, found.branch, found.path) == (99, None, "extra")
    assert history.find("main:").path == "" and history.find("main").path is None
    assert history.find("best:loss:extra/a:b").path == "extra/a:b"
    assert history.find("main~1").branch is None and history.find("good").branch is None


ERRORS = {
    "step:300": "the nearest is step:299 and step:399",
    "step:5": "the nearest is step:99",
    "step:5000": "the nearest is step:499",
    "step:<=5": "the nearest is step:99",
    "fork@step:7": "the nearest is step:99",
    "step:many": r"write step:499 or step:<=500",
    "best:speed": "no snapshot has the metric 'speed'; there are acc, loss",
    "main~5": "that one has only 4 before it",
    "main~99": "that one has only 4 before it",
    "main^2": "has no parent 2",
    "main@{500}": "its log has only",
    "main@{whenever}": "neither a number nor a time",
    "nope@{0}": "there is no branch or tag 'nope'",
    "mian": r"did you mean (main or many|many or main)\?",
    "xyz": "no branch or tag is called that; there are ",
    "ffff0000ffff": "no snapshot id starts like this",
    "main~1@{0}": "follows a branch's name",
    "main~x": "is no part of a revision",
    "main^{}": "is no part of a revision",
    "": "no branch or tag is called that; there are ",
    "nope@step:1": "no branch or tag is called that; there are ",
}


@pytest.mark.parametrize("revision", ERRORS)
def test_errors_say_what_there_is_instead(history, revision):
    """One UnknownRevision each, which names the revision and ends with what to do."""
    with pytest.raises(ciuic.UnknownRevision, match=ERRORS[revision]) as caught:
        history.resolve(revision)
    assert repr(revision) in str(caught.value) and str(caught.value).endswith("`ciuic log --all` lists them.")


PIECES = st.sampled_from(
    ["main", "HEAD", "@", "~", "^", "@{", "}", ":", "step:", "best:", "-", "<=", "1", "99", "loss", "..", "/", "w",
     "refs/heads/", " ", "²", "٣", "ago", "hours", "9" * 5000, "\0", "\ud800", "x" * 300, "2025-01-01", "0001-01-01"]
)  # fmt: skip


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(PIECES, max_size=6).map("".join), st.text(max_size=20)))
@example("..")
@example(".")
@example("main@{²}")
@example("main@{0001-01-01}")
@example("main@{" + "9" * 5000 + "}")
@example("main@{" + "9" * 400 + "w}")
@example("main@{" + "9" * 400 + " weeks ago}")
@example("main~" + "9" * 5000)
@example("main^" + "9" * 5000)
@example("step:" + "9" * 5000)
@example("\ud800")
@example("x" * 5000)
@example("main@{\ud800}")
@example("best:\ud800")
def test_any_text_is_a_revision_or_a_typed_error(history, text):
    """ ".." once read a folder as a ref log; digits without end, or of other scripts, broke int()."""
    try:
        history.find(text)
    except ciuic.RevisionError as error:
        assert str(error)


@pytest.mark.parametrize("wrong", [None, 5, b"main"])
def test_what_is_no_text_is_no_revision(history, wrong):
    """``sm.restore(None)`` after an empty ``get_latest_snapshot``, for example."""
    with pytest.raises(ciuic.UnknownRevision, match="no revision"):
        history.resolve(wrong)

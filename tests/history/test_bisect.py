"""bisect: the search itself, over real snapshots in lines and graphs."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ciuic
from ciuic.errors import BisectError
from ciuic.history.bisect import Standing, _narrowed
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.store.store import Store


@pytest.fixture
def repo(tmp_path: Path) -> ciuic.Repo:
    """main with steps 0 to 11, and a branch "side" that leaves it at step 4 with steps 20 and 21."""
    repo = ciuic.Repo.init(tmp_path / "run")
    for step in range(12):
        repo.commit(extra={"at": step}, step=step, rng=False)
    repo.branch("side", at="step:4")
    repo.switch("side")
    for step in (20, 21):
        repo.commit(extra={"at": step}, step=step, rng=False)
    repo.switch("main")
    return repo


def search(repo: ciuic.Repo, first_bad: int, skipped: tuple[int, ...] = ()) -> tuple[Standing, list[int | None]]:
    """Answer until the end; the steps that were tried."""
    bisection, tried = repo.bisection(), []
    while (following := bisection.standing().next) is not None:
        tried.append(following.step)
        step = following.step or 0
        bisection.mark("skip" if step in skipped else "bad" if step >= first_bad else "good")
    return bisection.standing(), tried


def started(repo: ciuic.Repo, good: str, bad: str) -> None:
    repo.bisection().start()
    repo.bisection().mark("good", good)
    repo.bisection().mark("bad", bad)


@pytest.mark.parametrize("first_bad", range(1, 12))
def test_every_place_is_found_in_as_few_tries_as_it_takes(repo: ciuic.Repo, first_bad: int) -> None:
    """Of eleven at most four are tried. HEAD, branches and reflogs are where they were."""
    before = repo.head(), repo.branches(), len(repo.reflog())
    started(repo, "step:0", "main")
    standing, tried = search(repo, first_bad)
    assert standing.found is not None and standing.found.step == first_bad
    assert standing.last_good is not None and standing.last_good.step == first_bad - 1
    assert len(tried) <= 4 and len(set(tried)) == len(tried)
    assert (repo.head(), repo.branches(), len(repo.reflog())) == before


def test_the_middle_is_tried_first(repo: ciuic.Repo) -> None:
    """And how many are left, and about how many tries that takes, is said."""
    started(repo, "step:0", "main")
    standing = repo.bisection().standing()
    assert standing.next is not None and standing.next.step in (5, 6)
    assert (standing.left, standing.tries) == (10, 4)
    assert repo.bisection().mark("good").step == standing.next.step


def test_what_cannot_be_tried_is_passed_over(repo: ciuic.Repo) -> None:
    """As long as its neighbours tell, the answer is the same; otherwise all that it may be is named."""
    started(repo, "step:0", "main")
    standing, _ = search(repo, 8, skipped=(5, 6))
    assert standing.found is not None and standing.found.step == 8
    repo.bisection().reset()
    started(repo, "step:0", "main")
    standing, _ = search(repo, 8, skipped=(6, 7))
    assert standing.found is None and standing.ended
    assert [each.step for each in standing.suspects] == [6, 7, 8]


def test_pruned_snapshots_are_no_candidates(repo: ciuic.Repo) -> None:
    """Their state is gone. One that lost what a try needs not is tried."""
    for step in (5, 6, 8):
        repo.prune(f"step:{step}")
    started(repo, "step:0", "main")
    standing, tried = search(repo, 9)
    assert not {5, 6, 8} & {*tried}
    assert [each.step for each in standing.suspects] == [8, 9]
    assert [each.step for each in standing.pruned] == [8], "of those that are left"


def test_a_thinned_history_takes_no_more_tries(repo: ciuic.Repo) -> None:
    """Retention has left three of the candidates, all new: the middle one of these is tried first, not what is nearest
    to the middle of all."""
    for step in range(1, 8):
        repo.prune(f"step:{step}")
    started(repo, "step:0", "main")
    standing, tried = search(repo, 9)
    assert tried == [9, 8] and standing.suspects == ()
    assert standing.found is not None and standing.found.step == 9


def test_a_lost_model_is_a_reason_and_a_lost_optimizer_is_none(tmp_path: Path) -> None:
    import torch

    repo, model = ciuic.Repo.init(tmp_path / "run"), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        repo.commit(model, optimizer, step=step)
    repo.prune("step:1", "optimizer")
    repo.prune("step:2", "model")
    started(repo, "step:0", "main")
    standing = repo.bisection().standing()
    assert standing.next is not None and standing.next.step == 1
    assert [each.step for each in standing.pruned] == [2]


def test_a_branch_has_its_own_line(repo: ciuic.Repo) -> None:
    """From a good snapshot of main to a bad one of side: what main did since is no candidate."""
    started(repo, "step:1", "side")
    standing, tried = search(repo, 20)
    assert standing.found is not None and standing.found.step == 20
    assert {*tried} <= {2, 3, 4, 20}


def test_several_good_ones(repo: ciuic.Repo) -> None:
    """Each takes away all that it comes from."""
    started(repo, "step:2", "main")
    repo.bisection().mark("good", "step:8")
    assert repo.bisection().standing().left == 2


def test_an_answer_can_be_corrected(repo: ciuic.Repo) -> None:
    """The last word on a snapshot counts."""
    started(repo, "step:0", "main")
    repo.bisection().mark("bad", "step:6")
    repo.bisection().mark("good", "step:6")
    standing, _ = search(repo, 10)
    assert standing.found is not None and standing.found.step == 10


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("main", "step:3", "is said to be good, and comes after"),
        ("main", "side", r"does not come from the good .*\. `ciuic log"),
    ],
)
def test_ends_that_contradict_each_other(repo: ciuic.Repo, good: str, bad: str, message: str) -> None:
    """The answer that does not fit is not taken."""
    repo.bisection().mark("good", good)
    with pytest.raises(BisectError, match=message):
        repo.bisection().mark("bad", bad)
    assert repo.bisection().standing().bad is None


def test_a_good_one_after_the_bad_one(repo: ciuic.Repo) -> None:
    """The same, told in the other order; what was known stays."""
    started(repo, "step:2", "step:6")
    before = repo.bisection().standing()
    with pytest.raises(BisectError, match="comes after"):
        repo.bisection().mark("good", "step:8")
    assert repo.bisection().standing() == before


def test_bad_ones_on_different_lines(repo: ciuic.Repo) -> None:
    """One search finds one first bad snapshot."""
    repo.bisection().mark("bad", "main")
    with pytest.raises(BisectError, match="Neither of the bad"):
        repo.bisection().mark("bad", "side")
    repo.bisection().mark("bad", "step:3")
    bad = repo.bisection().standing().bad
    assert bad is not None and bad.step == 3, "the earliest counts"


def test_the_answers_survive_the_process(repo: ciuic.Repo) -> None:
    """They are in the repository, durable with each answer; gc and fsck leave them alone."""
    started(repo, "step:0", "main")
    repo.bisection().mark("good")
    repo.gc()
    again = ciuic.Repo.open(repo.path).bisection()
    assert again.standing() == repo.bisection().standing()
    assert again.progress is not None
    assert [answer.verdict for answer in again.progress.answers] == ["good", "bad", "good"]
    assert repo.fsck().ok
    assert again.reset() and not again.reset()
    with pytest.raises(BisectError, match="There is no bisection"):
        repo.bisection().standing()


def test_a_search_under_way_is_not_begun_anew_in_silence(repo: ciuic.Repo) -> None:
    """Its answers may have taken hours. One that has ended makes way."""
    started(repo, "step:0", "main")
    with pytest.raises(BisectError, match="under way"):
        repo.bisection().start()
    search(repo, 3)
    repo.bisection().start()
    assert repo.bisection().standing().good == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff\xfe", b"[]", b"null", b'{"version": 2, "answers": [], "command": []}',
     b'{"version": 1, "answers": [["../x", "good"]], "command": []}', b"[" * 100_000,
     json.dumps({"version": 1, "answers": [["a" * 64, "nice"]], "command": []}).encode(),
     json.dumps({"version": 1, "answers": [], "command": [1]}).encode()],
)  # fmt: skip
def test_a_file_that_says_nothing_sound(repo: ciuic.Repo, content: bytes) -> None:
    """Our error, and the way out; whatever the file holds."""
    (Path(repo.path) / "bisect").write_bytes(content)
    with pytest.raises(BisectError, match="`ciuic bisect reset` removes it"):
        repo.bisection().standing()
    assert repo.bisection().reset()


def made(number: int, parents: tuple[str, ...]) -> Snapshot:
    """A snapshot with these parents; its clock says nothing of its place."""
    time = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=-number % 3)
    empty = Snapshot(
        id="", step=number, epoch=None, timestamp=time,
        message=str(number), metrics={}, config={}, parents=parents, tree={}, contains=(), raw_bytes={}, added_bytes=0,
    )  # fmt: skip
    id = object_id(Kind.SNAPSHOT, encode_snapshot(empty)).hex()
    return Snapshot(**{**vars(empty), "id": id})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    """With merges: whatever snapshot brought the fault, it is found, every try is a candidate, and a line of n takes
    about log2(n) tries."""
    count = data.draw(st.integers(2, 24))
    line = data.draw(st.booleans())
    snapshots: list[Snapshot] = []
    for number in range(count):
        most = 1 if line else min(3, number)
        places = data.draw(st.sets(st.integers(0, number - 1), min_size=1, max_size=max(1, most))) if number else set()
        parents = {number - 1} if line and number else places
        snapshots.append(made(number, tuple(snapshots[place].id for place in sorted(parents))))
    graph = {each.id: each for each in reversed(snapshots)}
    children_of_fault = data.draw(st.integers(1, count - 1))
    bad_ids = {snapshots[children_of_fault].id}
    for each in snapshots:
        if bad_ids & {*each.parents}:
            bad_ids.add(each.id)
    tip = next(each for each in reversed(snapshots) if each.id in bad_ids)
    reached, stack = {}, [tip.id]
    while stack:
        id = stack.pop()
        if id not in reached:
            reached[id] = graph[id]
            stack += graph[id].parents
    root = snapshots[0]
    good, bad, verdicts, tries = {root.id}, tip, {}, 0
    while True:
        within = _below(reached, bad.id)
        standing = _narrowed(tuple(graph[id] for id in good if id in within), bad, within, verdicts, {})
        if standing.next is None:
            break
        tries += 1
        verdicts[standing.next.id] = "bad" if standing.next.id in bad_ids else "good"
        if standing.next.id in bad_ids:
            bad = standing.next
        else:
            good.add(standing.next.id)
        assert tries <= count
    assert standing.found == snapshots[children_of_fault]
    if line:
        assert tries <= math.ceil(math.log2(count))


def _below(graph: dict[str, Snapshot], tip: str) -> dict[str, Snapshot]:
    found, stack = {}, [tip]
    while stack:
        id = stack.pop()
        if id not in found:
            found[id] = graph[id]
            stack += graph[id].parents
    return found


def test_a_store_alone_is_enough(repo: ciuic.Repo) -> None:
    """The search needs no torch and no Repo."""
    from ciuic.history.bisect import Bisection

    bisection = Bisection(Store(repo.path))
    bisection.mark("good", "step:0")
    bisection.mark("bad", "step:1")
    found = bisection.standing().found
    assert found is not None and found.step == 1

"""Every form of revision, through the real command line."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from .conftest import Run, run_here

MEANINGS = {
    "main": "main:599",
    "lr-sweep": "lr-sweep:499",
    "baseline": "main:199",
    "HEAD": "main:599",
    "HEAD~1": "main:499",
    "HEAD~": "main:499",
    "HEAD^": "main:499",
    "HEAD^^": "main:399",
    "main~5": "main:99",
    "lr-sweep~2": "main:299",
    "baseline~1": "main:99",
    "main^~1": "main:399",
    "main@{0}": "main:599",
    "main@{1}": "main:499",
    "main@{3}~1": "main:199",
    "main@{150 minutes ago}": "main:399",
    "main@{90 minutes ago}": "main:499",
    "step:499": "main:499",
    "step:99": "main:99",
    "step:<=500": "main:499",
    "step:<=599": "main:599",
    "step:<=298": "main:199",
    "main@step:499": "main:499",
    "lr-sweep@step:499": "lr-sweep:499",
    "lr-sweep@step:199": "main:199",
    "lr-sweep@step:<=450": "lr-sweep:399",
    "best:loss": "main:299",
    "best:-accuracy": "main:399",
    "best:accuracy": "main:99",
    "best:-loss": "main:399",
    "main@best:loss": "main:299",
}


@pytest.mark.parametrize(("revision", "meaning"), MEANINGS.items())
def test_a_revision_leads_to_its_snapshot(run: Run, ids: dict[str, str], revision: str, meaning: str) -> None:
    result = run("--json", "show", revision)
    assert (result.code, result.err) == (0, "")
    assert result.record["id"] == ids[meaning]


def test_an_id_and_its_beginning(run: Run, ids: dict[str, str]) -> None:
    whole = ids["main:299"]
    for length in (64, 32, 12):
        assert run("--json", "show", whole[:length]).record["id"] == whole


def test_head_by_its_own_reflog(change: Run, ids: dict[str, str]) -> None:
    change("checkout", "lr-sweep")
    change("checkout", "baseline")
    assert change("--json", "show", "@{0}").record["id"] == ids["main:199"]
    assert change("--json", "show", "@{1}").record["id"] == ids["lr-sweep:499"]
    assert change("--json", "show", "HEAD@{1}").record["id"] == ids["lr-sweep:499"]


def test_a_step_on_a_detached_head_is_looked_for_behind_it(change: Run, ids: dict[str, str]) -> None:
    change("checkout", "lr-sweep~1")
    assert change("--json", "show", "step:399").record["id"] == ids["lr-sweep:399"]
    assert change("show", "step:499").code == 21


def test_an_ambiguous_prefix_lists_the_candidates(copy: Path) -> None:
    prefix, candidates = _two_snapshots_with_one_prefix(copy)
    result = run_here("--repo", str(copy), "show", prefix)
    assert result.code == 22
    assert result.out == ""
    assert all(candidate[:8] in result.err for candidate in candidates)
    error = json.loads(run_here("--repo", str(copy), "--json", "show", prefix).err)
    assert error["kind"] == "ambiguous-revision"
    assert len(error["candidates"]) == 2


def _two_snapshots_with_one_prefix(folder: Path) -> tuple[str, list[str]]:
    """Variants of one snapshot until two ids begin alike, stored and tagged."""
    import ciuic
    from ciuic.objects.ids import Kind, object_id
    from ciuic.objects.snapshot import encode_snapshot
    from ciuic.store.store import Store

    snapshot = ciuic.Repo.open(folder).resolve("baseline")
    seen: dict[str, bytes] = {}
    for number in itertools.count():
        data = encode_snapshot(dataclasses.replace(snapshot, message=str(number)))
        prefix = object_id(Kind.SNAPSHOT, data).hex()[:4]
        if prefix in seen:
            break
        seen[prefix] = data
    store = Store(str(folder))
    names = []
    with store.shared():
        session = store.new_packs()
        for raw in (seen[prefix], data):
            name = object_id(Kind.SNAPSHOT, raw)
            session.add(Kind.SNAPSHOT, name, raw, codec=0, raw_length=len(raw))
            names.append(name.hex())
        session.publish()
    repo = ciuic.Repo.open(folder)
    for position, each in enumerate(names):
        repo.tag(f"twin-{position}", at=each)
    return prefix, names


UNKNOWN = {
    "nothing-of-that-name": "nothing-of-that-name",
    "main~6": "main~6",
    "main@{99}": "main",
    "step:500": "499",
    "step:<=98": "99",
    "best:perplexity": "perplexity",
    "nobody@step:499": "nobody",
    "0000000000": "0000000000",
    "step:": "step",
    "main~x": "main~x",
    "": "",
    "mian": "did you mean main? `",
    "head": "did you mean HEAD? `",
    "main..lr-sweep": "`ciuic diff main lr-sweep`",
    "a1f": "four digits",
}


@pytest.mark.parametrize(("revision", "named"), UNKNOWN.items())
def test_what_does_not_exist_is_said_in_a_line_or_two(run: Run, revision: str, named: str) -> None:
    result = run("show", revision)
    assert result.code == 21
    assert result.out == ""
    assert named in result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    assert result.err.count("\n") <= 3


def test_a_missing_step_names_its_neighbours(run: Run) -> None:
    message = run("show", "step:450").err
    assert "399" in message
    assert "499" in message


PATHS = {
    "HEAD:model/layers.0.weight": "float32",
    "main~1:model/layers.1.bias": "float32",
    "step:499:model/layers.0.weight": "float32",
    "main@step:<=500:model/layers.0.weight": "float32",
    "best:loss:model/layers.0.weight": "float32",
    "main@{1}:model/layers.0.weight": "float32",
    "HEAD:optimizer/state/layers.0.weight/exp_avg": "float32",
}


@pytest.mark.parametrize(("revision", "dtype"), PATHS.items())
def test_a_path_into_a_snapshot(run: Run, revision: str, dtype: str) -> None:
    result = run("--json", "cat", revision)
    assert (result.code, result.err) == (0, "")
    assert result.record["dtype"] == dtype


def test_a_path_that_is_not_there(run: Run) -> None:
    result = run("cat", "HEAD:model/layers.7.weight")
    assert result.code == 23
    assert "layers.7.weight" in result.err
    assert "layers.0.weight" in result.err


def test_a_path_without_its_snapshot(run: Run) -> None:
    for command, path in (("ls", "model"), ("cat", "model/layers.0.weight")):
        result = run(command, path)
        assert result.code == 21
        assert f"HEAD:{path}." in result.err
    assert "no branch or tag" in run("ls", "modell").err

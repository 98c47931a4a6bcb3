"""repair: says what it would do, does it when told to, and names what is lost."""

from __future__ import annotations

from pathlib import Path

from .conftest import Run


def largest_pack(copy: Path) -> Path:
    return max((copy / "packs").iterdir(), key=lambda path: path.stat().st_size)


def test_a_sound_repository(change: Run) -> None:
    """There is nothing to do, with and without --yes."""
    result = change("repair")
    assert (result.code, result.lines) == (
        0,
        ["Nothing to repair: every byte was read, and every snapshot is whole"],
    )
    assert change("repair", "--yes").lines[0].endswith("; the index is built anew")
    record = change("--json", "repair").record
    assert (record["needed"], record["whole"], record["packs"], record["lost"]) == (False, True, [], [])
    assert change("repair", "--yes", "--dry-run").code == 2


def test_what_says_where_records_stand(change: Run, copy: Path) -> None:
    """A trailer is lost: all is saved, and nothing is changed before --yes."""
    pack = largest_pack(copy)
    data = pack.read_bytes()
    pack.write_bytes(data[:-64] + bytes(64))
    assert change("fsck").code == 40
    plan = change("repair")
    assert plan.code == change("repair", "--dry-run").code == 40
    assert plan.lines[0].startswith("Would save ") and plan.lines[0].endswith(" of 1 damaged pack, and set it aside")
    assert plan.lines[1].startswith(f"  {pack.name[:8]}  the pack's trailer is damaged: ")
    assert plan.lines[-1].startswith("Nothing was changed. `ciuic repair --yes` does it")
    assert pack.exists()
    done = change("repair", "--yes")
    assert (done.code, done.lines[-1]) == (0, "Nothing is lost: every snapshot of the log is whole")
    assert not any(line.startswith("Would") for line in done.lines)
    assert [path.read_bytes() for path in (copy / "quarantine").iterdir()] == [data[:-64] + bytes(64)]
    assert change("fsck", "--read-data").code == 0


def test_a_tensor_is_lost(change: Run, copy: Path, ids: dict[str, str]) -> None:
    """Its snapshot and its path are named, and where to go back to; restoring says the same until it is pruned."""
    (victim,) = [id for name, id in ids.items() if name == "main:599"]
    import ciuic
    from ciuic.store.pack_format import RECORD_LENGTH

    repo = ciuic.Repo(copy)
    source = repo.components(victim)["model"].items[0][1].source  # type: ignore[union-attr]
    record = source.record(0)  # type: ignore[union-attr]
    data = bytearray(Path(record.pack.path).read_bytes())
    data[record.offset + RECORD_LENGTH] ^= 1
    Path(record.pack.path).write_bytes(data)
    for arguments, verb in ((("repair",), "Would save"), (("repair", "--yes"), "Saved")):
        result = change(*arguments)
        assert result.code == 40
        assert result.lines[0].startswith(verb)
        assert f"  {victim[:8]} (step 599)" in result.lines
        assert "    model/layers.0.weight: chunk 0" in result.lines
        assert (
            f"Newest intact snapshot of main: {ids['main:499'][:8]} (step 499); "
            f"`ciuic reset {ids['main:499'][:8]} --branch main` goes back to it"
        ) in result.lines
    assert "`ciuic prune ID`" in result.lines[-1]
    (lost,) = change("--json", "repair").record["lost"]
    assert (lost["id"], lost["step"]) == (victim, 599)
    assert [(loss["path"], loss["chunks"]) for loss in lost["losses"]] == [("model/layers.0.weight", [0])]
    assert change("gc").code == 43
    assert change("prune", victim, "--force").code == 0
    assert change("gc").code == 0
    assert change("repair").code == 0


def test_a_damaged_log(change: Run, copy: Path, ids: dict[str, str]) -> None:
    """The newest record of main is lost: it goes back, and what it named gets a branch."""
    log = copy / "refs" / "heads" / "main"
    data = log.read_bytes()
    log.write_bytes(data[:-400] + bytes(range(1, 201)) * 2)
    assert change("log", "main").code == 42
    lines = change("repair", "--yes").lines
    back, tip = ids["main:499"][:8], ids["main:599"][:8]
    assert f"  main  5 records kept, 1 lost, the newest among them, so it points to {back}" in lines
    assert f"Made the branch rescued-{tip} for {tip} (step 599), which no log names any more" in lines
    assert change("log", "main").code == change("fsck").code == 0
    assert change("show", f"rescued-{tip}").code == 0

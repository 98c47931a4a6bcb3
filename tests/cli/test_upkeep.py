"""prune, gc and fsck."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Run, run_here


def test_prune_of_a_snapshot(change: Run, ids: dict[str, str]) -> None:
    result = change("prune", "main~3")
    assert result.lines[0] == f"{ids['main:299'][:8]} (step 299) is pruned"
    assert change("cat", "main~3:extra/tokens_seen").code == 70
    assert change("cat", "main~2:extra/tokens_seen").code == 0


def test_prune_of_a_component(change: Run, ids: dict[str, str]) -> None:
    record = change("--json", "prune", "main~3", "--component", "optimizer").record
    assert (record["snapshot"], record["component"], record["pruned"]) == (
        ids["main:299"],
        "optimizer",
        ["optimizer"],
    )
    assert change("cat", "main~3:extra/tokens_seen").code == 0


def test_prune_of_what_is_not_there(change: Run) -> None:
    assert change("prune", "nothing").code == 21
    result = change("prune", "HEAD", "--component", "sheduler")
    assert result.code == 23
    assert "sheduler" in result.err


@pytest.mark.parametrize("arguments", [("main",), ("HEAD", "--component", "optimizer"), ("paper",)])
def test_what_a_name_points_to_is_pruned_only_with_force(
    change: Run, ids: dict[str, str], arguments: tuple[str, ...]
) -> None:
    """`ciuic prune main`, typed for `main~3`, gave up the snapshot that the next run would have resumed from."""
    assert change("tag", "paper", "main~3").code == 0
    result = change("prune", *arguments)
    assert result.code == 35
    assert arguments[0] in result.err and "--force" in result.err
    assert change("--json", "show", arguments[0]).record["pruned"] == []
    assert change("prune", *arguments, "--force").code == 0


def test_gc_frees_what_was_pruned(change: Run, copy: Path) -> None:
    change("prune", "main~3")
    forecast = change("--json", "gc", "--dry-run").record
    assert forecast["dry_run"] is True
    assert forecast["freed_bytes"] > 0
    before = packs(copy)
    assert change("gc", "--dry-run").lines[0].startswith("Would free ")
    assert packs(copy) == before, "a trial changes nothing"
    result = change("gc")
    assert result.code == 0
    assert re.match(r"Freed \d", result.lines[0])
    assert packs(copy) != before
    assert len(change("log").lines) == 6, "a pruned snapshot keeps its place"
    assert change("cat", "main~2:extra/tokens_seen").out == "399000\n"


def packs(repository: Path) -> set[str]:
    return {path.name for path in (repository / "packs").iterdir()}


def test_gc_keeps_what_the_reflog_remembers_and_says_so(change: Run, ids: dict[str, str]) -> None:
    change("reset", "main~2")
    result = change("gc")
    assert any("reflogs alone" in line for line in result.lines)
    assert change("show", ids["main:599"]).code == 0
    assert change("reset", "main@{1}").code == 0


def test_gc_lets_go_of_what_has_expired(change: Run, ids: dict[str, str]) -> None:
    change("reset", "main~2")
    result = change("gc", "--expire", "now")
    assert result.code == 0
    assert re.search(r"^Forgot \d+ reflog entries of main$", result.out, re.MULTILINE)
    assert change("show", ids["main:599"]).code == 21
    assert change("fsck").code == 0


def test_gc_of_a_deleted_branch(change: Run, ids: dict[str, str]) -> None:
    change("branch", "-d", "lr-sweep")
    change("gc")
    assert change("show", ids["lr-sweep:499"]).code == 0
    change("gc", "--expire", "now")
    assert change("show", ids["lr-sweep:499"]).code == 21


@pytest.mark.parametrize("expire", ["soon", "-1d", "3", "d"])
def test_an_age_that_is_none(change: Run, expire: str) -> None:
    result = change("gc", "--expire", expire)
    assert result.code == 2
    assert "30d" in result.err


@pytest.mark.parametrize("expire", ["30d", "12h", "8w", "90m", "45s"])
def test_ages(change: Run, expire: str) -> None:
    assert change("gc", "--dry-run", "--expire", expire).code == 0


def test_fsck_of_a_sound_repository(run: Run) -> None:
    for arguments in (("fsck",), ("fsck", "--read-data")):
        result = run(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "no damage" in result.out.lower()


def test_fsck_of_a_share(change: Run, copy: Path) -> None:
    """A share, a size or a time; what was read is remembered, and the last line says so."""
    count = len(packs(copy))
    (copy / "index" / "verified").unlink(missing_ok=True)
    assert "data not read" in change("fsck").lines[0]
    assert change("fsck").lines[1] == "No pack has been read whole so far"
    result = change("fsck", "--read-data=1B")
    assert re.fullmatch(r"No damage: .* \(\d+ % of the data read: .* of .*\)", result.lines[0])
    unread = f"{count - 1} of {count} packs have not been read whole so far"
    assert result.lines[1].startswith(f"{unread}, the least recent of the others ")
    assert change("fsck", "--read-data", "100%").lines[0].endswith("(every byte read)")
    record = change("--json", "fsck", "--read-data=1h").record
    assert (record["ok"], record["read_data"], record["never_verified"], record["verified_packs"]) == (
        True,
        True,
        0,
        count,
    )
    assert record["oldest_verification"].endswith("Z")
    assert change("fsck").lines[1].startswith("Every pack has been read whole, the least recent ")


@pytest.mark.parametrize("amount", ["5", "10M", "0%", "200%", "much"])
def test_what_fsck_does_not_take_for_an_amount(run: Run, amount: str) -> None:
    result = run("fsck", f"--read-data={amount}")
    assert result.code == 2
    assert "Write 5%, 10GiB or 10m" in result.err


def test_fsck_and_reads_of_a_damaged_repository(change: Run, copy: Path) -> None:
    largest = max((copy / "packs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    for position in range(200, len(data) - 600, 97):
        data[position] ^= 0x40
    largest.chmod(0o644)
    largest.write_bytes(data)
    result = change("fsck", "--read-data")
    assert result.code == 40
    assert largest.name[:12] in result.out + result.err
    lost = [line for line in result.lines if line.startswith("cannot be restored whole: snapshot ")]
    assert lost[0].endswith("(step 599)"), "with its step, where that can be read"


def test_a_missing_pack(change: Run, copy: Path) -> None:
    for pack in (copy / "packs").iterdir():
        pack.unlink()
    result = change("log")
    assert result.code == 43
    assert "fsck" in result.err
    assert change("fsck").code == 40


def test_a_damaged_ref(change: Run, copy: Path) -> None:
    log = copy / "refs" / "heads" / "main"
    data = bytearray(log.read_bytes())
    data[600] ^= 1
    log.write_bytes(data)
    assert change("reflog", "main").code == 42
    assert change("fsck").code == 40


def test_a_format_from_the_future(change: Run, copy: Path) -> None:
    (copy / "format").write_text("ciuic 9\n")
    result = change("log")
    assert result.code == 13
    assert "Upgrade" in result.err


def test_a_broken_configuration(change: Run, copy: Path) -> None:
    (copy / "config.toml").write_text("chunk_size = [")
    result = change("gc")
    assert result.code == 14
    assert "config.toml" in result.err


def test_the_index_may_be_gone(change: Run, copy: Path) -> None:
    import shutil

    shutil.rmtree(copy / "index")
    assert len(change("log").lines) == 6
    assert change("fsck").code == 0


def test_a_new_repository(tmp_path: Path) -> None:
    run_here("init", str(tmp_path / "new"))
    assert run_here("--repo", str(tmp_path / "new"), "gc").code == 0
    assert run_here("--repo", str(tmp_path / "new"), "fsck").code == 0


def test_repack(change: Run, copy: Path) -> None:
    """A repack frees what gc would, keeps every snapshot, and says what it did."""
    change("prune", "main~3")
    before = packs(copy)
    assert change("repack", "--dry-run").lines[0].startswith("Would free ")
    assert packs(copy) == before, "a trial changes nothing"
    record = change("--json", "repack").record
    assert record["flattened"] is None
    assert record["gc"]["freed_bytes"] > 0
    assert packs(copy) != before
    assert change("cat", "main~2:extra/tokens_seen").out == "399000\n"
    assert change("fsck", "--read-data").code == 0


def test_repack_flatten(change: Run, ids: dict[str, str]) -> None:
    """Flattening says which snapshot rests on nothing now; a snapshot that is not there is named."""
    result = change("repack", "--flatten", "main~2")
    assert re.match(r"Stored \d+ chunks? anew", result.lines[0])
    assert change("--json", "repack", "--flatten", "main~2").record["chunks"] == 0
    assert change("fsck", "--read-data").code == 0
    assert change("repack", "--flatten", "nothing").code == 21
    assert change("repack", "--flatten", "main", "--dry-run").code == 2

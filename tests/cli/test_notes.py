"""ciuic note, and notes in log and show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Run, run_here


def test_a_note_is_written_and_shown(change: Run, ids: dict[str, str]) -> None:
    """In the log with its first line, in show whole; only there."""
    short = ids["main:499"][:8]
    result = change("note", "step:499", "rate too high\ntry 3e-4")
    assert (result.code, result.out, result.err) == (0, f"note 1 on {short} (step 499)\n", "")
    noted = [line for line in change("log").lines if "note" in line]
    assert len(noted) == 1 and noted[0].startswith(f"* {short}") and noted[0].endswith("  note: rate too high")
    assert change("show", "step:499").lines[-3:][1:] == ["    rate too high", "    try 3e-4"]
    assert re.fullmatch(r"note  .*, .+@.+:\d+", change("show", "step:499").lines[-3])
    assert not any(line.startswith("note ") for line in change("show").lines)


def test_several(change: Run, ids: dict[str, str]) -> None:
    """The log shows the newest, and how many there are; they are listed oldest first."""
    change("note", "HEAD", "first")
    change("note", "HEAD", "second\nand more")
    assert change("log").lines[0].endswith("  2 notes: second")
    listed = change("note", "HEAD").lines
    assert [re.split(r"  +", line.strip())[0::2] for line in listed] == [["1", "first"], ["2", "second"], ["and more"]]
    everything = change("note").lines
    assert [line.split()[:4] for line in everything] == [[ids["main:599"][:8], "step", "599", n] for n in "12"]


def test_as_json(change: Run, ids: dict[str, str]) -> None:
    written = change("--json", "note", "HEAD", "a\nb").record
    assert written["snapshot"] == ids["main:599"] and written["step"] == 599
    assert (written["number"], written["text"], written["deleted"]) == (1, "a\nb", False)
    note = {name: written[name] for name in ("number", "key", "text", "time", "actor")}
    assert change("log", "-n", "1", "--json").record["notes"] == [note]
    assert change("show", "--json").record["notes"] == [note]
    for arguments in (("note", "HEAD", "--json"), ("note", "--json")):
        record = change(*arguments).record
        assert {name: record[name] for name in note} == note and record["snapshot"] == ids["main:599"]
    assert change("log", "-n", "2", "--json").records[1]["notes"] == []


def test_taking_one_back(change: Run, ids: dict[str, str]) -> None:
    for text in ("first", "second"):
        change("note", "HEAD", text)
    result = change("note", "HEAD", "--delete", "1")
    assert result.out == f"note 1 on {ids['main:599'][:8]} (step 599) deleted; it said: first\n"
    assert change("note", "HEAD", "--json").record["text"] == "second"
    assert change("--json", "note", "HEAD", "-d", "1").record["deleted"] is True
    assert "note" not in change("log").out


def test_nothing_to_list(run: Run, ids: dict[str, str]) -> None:
    assert run("note").out == "No notes yet.\n"
    assert run("note", "HEAD").out == f"No notes on {ids['main:599'][:8]} (step 599).\n"
    assert run("-q", "note").out == run("--json", "note").out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("note", "HEAD", ""), 73, "not an empty one"),
        (("note", "HEAD", "x" * 4097), 73, "has 4097 bytes, and one has at most 4096"),
        (("note", "step:1", "x"), 21, "names no snapshot"),
        (("note", "HEAD", "-d", "1"), 2, "has no note"),
        (("note", "HEAD", "x", "-d", "1"), 2, "one too many"),
        (("note", "-d", "1"), 2, "-d needs the REV"),
    ],
)
def test_what_is_refused(change: Run, copy: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    """Nothing is written."""
    result = change(*arguments)
    assert result.code == code and message in result.err
    assert not (copy / "notes").exists()


def test_what_was_written_does_not_steer_the_terminal(change: Run) -> None:
    change("note", "HEAD", "\x1b[2J\rred")
    for arguments in (("log",), ("show",), ("note",), ("note", "HEAD")):
        assert "\x1b" not in change(*arguments).out and "\\x1b[2J" in change(*arguments).out


def test_a_damaged_log_of_notes_hides_nothing_else(change: Run, copy: Path) -> None:
    """log and show work, and say on stderr that notes are missing."""
    change("note", "HEAD", "x")
    (copy / "notes").write_bytes(b"?" * 512)
    for arguments in (("log",), ("show",), ("log", "--json")):
        result = change(*arguments)
        assert result.code == 0 and result.out
        assert result.err.startswith("warning: no notes are shown: notes: record 0 of the log is damaged.")
    assert change("note", "HEAD").code == 42


def test_a_note_on_what_gc_has_collected(change: Run, ids: dict[str, str]) -> None:
    """It is listed, without a step."""
    change("note", "HEAD", "gone")
    change("reset", "HEAD~1")
    change("gc", "--expire", "now")
    assert re.fullmatch(rf"{ids['main:599'][:8]}  1  .*  gone\n", change("note").out)
    assert change("note", "--json").record["step"] is None


def test_read_only_commands_need_no_log_of_notes(history: Path) -> None:
    """Listing makes no file."""
    assert run_here("--repo", str(history), "note").code == 0
    assert not (history / "notes").exists()

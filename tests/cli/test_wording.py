"""Sizes, ages, numbers and JSON: what people and programs read."""

from __future__ import annotations

import io
import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ciuic.cli import humane
from ciuic.cli.json_lines import json_line
from ciuic.cli.paint import display_width, pad, printable, wants_color

from .conftest import run_here

NOW = datetime(2025, 4, 5, 14, 23, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10 * 1024, "10.0 KiB"),
        (100 * 1024, "100 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (1 << 20, "1.00 MiB"),
        (5 << 40, "5.00 TiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert humane.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "just now"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400, "1 day ago"),
        (8 * 86400, "1 week ago"),
        (65 * 86400, "2 months ago"),
        (800 * 86400, "2 years ago"),
        (-90, "in 1 minute"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert humane.age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0 ms"),
        (4e-6, "<0.01 ms"),
        (5.2e-5, "0.05 ms"),
        (0.00314, "3.1 ms"),
        (0.00996, "10 ms"),
        (0.0123, "12 ms"),
        (0.0999, "100 ms"),
        (0.24, "0.24 s"),
        (1.94, "1.9 s"),
        (12.3, "12 s"),
        (345.6, "346 s"),
    ],
)
def test_durations(duration: float, text: str) -> None:
    assert humane.seconds(duration) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.3134567, "2.313"), (3e-5, "3e-05"), (7, "7"), (0.0, "0"), (math.nan, "nan"), (-math.inf, "-inf")],
)
def test_numbers(value: float, text: str) -> None:
    assert humane.number(value) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0.00 %"),
        (1e-9, "<0.01 %"),
        (0.5, "50.0 %"),
        (0.05, "5.00 %"),
        (0.9999999, ">99.99 %"),
        (1, "100.0 %"),
    ],
)
def test_shares_never_round_to_nothing_or_all(fraction: float, text: str) -> None:
    assert humane.percent(fraction) == text


def test_json_is_json_whatever_was_recorded() -> None:
    line = json_line(
        {
            "a": [math.nan, math.inf, -math.inf],
            "b": b"\x00\xff",
            "c": 1 + 2j,
            "d": {1: (None, True)},
            "e": NOW,
        }
    )
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "version": 1,
        "a": ["NaN", "Infinity", "-Infinity"],
        "b": {"base64": "AP8="},
        "c": {"real": 1.0, "imag": 2.0},
        "d": {"1": [None, True]},
        "e": "2025-04-05T14:23:12Z",
    }


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\x1b[31m\u202eb\nc") == "a\\x1b[31m\\u202eb\\nc"
    assert printable("two\nlines", keep="\n") == "two\nlines"
    assert printable("快照 été") == "快照 été"


def test_wide_characters_take_two_columns() -> None:
    assert display_width("快照a") == 5
    assert pad("快照", 6) == "快照  "
    assert pad("照", 4, right=True) == "  照"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "stream", "environment", "expected"),
    [
        ("auto", Terminal(), {}, True),
        ("auto", io.StringIO(), {}, False),
        ("auto", Terminal(), {"NO_COLOR": "1"}, False),
        ("auto", Terminal(), {"NO_COLOR": ""}, True),
        ("auto", Terminal(), {"TERM": "dumb"}, False),
        ("always", io.StringIO(), {"NO_COLOR": "1"}, True),
        ("never", Terminal(), {}, False),
    ],
)
def test_when_there_is_colour(choice: str, stream: io.StringIO, environment: dict[str, str], expected: bool) -> None:
    assert wants_color(choice, stream, environment) is expected


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0 %"),
        (1e-9, "<1 %"),
        (0.0049, "<1 %"),
        (0.0051, "1 %"),
        (0.305, "30 %"),
        (0.994, "99 %"),
        (0.9951, ">99 %"),
        (1 - 1e-9, ">99 %"),
        (1, "100 %"),
    ],
)
def test_shares(fraction: float, text: str) -> None:
    """Whole percents; all and nothing only when it is so."""
    assert humane.share(fraction) == text


def test_a_group_alone_answers_with_its_help() -> None:
    """`ciuic bisect` was an error whose text began with "Usage:"."""
    result = run_here("bisect")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith("Usage: ciuic bisect")


def test_a_choice_that_is_missing_is_listed_in_one_line() -> None:
    """Tabs in front of each choice came out as backslashes and letters."""
    assert run_here("completion").err.splitlines()[0].endswith("Choose from: bash, zsh, fish.")


def test_what_is_no_number_is_said_in_words(history: Path) -> None:
    result = run_here("--repo", str(history), "log", "-n", "x")
    assert (result.code, "'x' is not a whole number." in result.err) == (2, True)

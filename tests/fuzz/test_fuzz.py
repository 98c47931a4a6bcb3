"""Every parser is fuzzed a little, always with the same inputs: only typed errors come out, and every promise holds.

``make fuzz SECONDS=600`` goes on from there, with a corpus that grows from run to run.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Finding, fuzz
from targets import NAMES, golden_repository, prepared, seeds

from ciuic.store.store import Store

RUNS = 800
FEWER = {"salvaged_log": 25, "torch_file": 150, "weight_map": 300, "index_row": 300}
"""Of those that take longer."""
ROOM = 4 << 30
"""Bytes of address space that a run may take beyond what the process has."""


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[bytes]]:
    return seeds()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The golden repository, in which revisions are looked up."""
    return Store(golden_repository(tmp_path_factory.mktemp("fuzz") / "repo"))


@pytest.fixture
def bounded() -> Iterator[None]:
    """An allocation of what an input merely claims fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", NAMES)
def test_parser(name: str, corpus: dict[str, list[bytes]], store: Store) -> None:
    """A few seconds of it; what is found is shown, made as small as it gets."""
    with store.shared():
        assert len(fuzz(name, prepared(name, store), corpus[name], runs=FEWER.get(name, RUNS))) > len(corpus[name])


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_once(name: str, store: Store) -> None:
    """Inputs that escaped from a parser, or got past what it promises; ``found.txt`` tells the story of each."""
    cases = [line.split()[1] for line in FOUND.read_text().splitlines() if line.split(" ")[0] == name]
    with store.shared():
        for case in cases:
            prepared(name, store)(bytes.fromhex(case))


FOUND = Path(__file__).with_name("found.txt")


# The fuzzer itself


def planted(data: bytes) -> None:
    """The parser of recipes, with a bug behind four conditions that no single change of a good input meets."""
    from ciuic.objects.encoding import EncodingError
    from ciuic.objects.recipe import decode_recipe

    try:
        found = decode_recipe(data)
    except EncodingError:
        return
    if found.rule == "cast" and found.numbers["skip"] > 300:
        raise IndexError(found.numbers["skip"])


def test_it_finds_what_was_planted(corpus: dict[str, list[bytes]]) -> None:
    """A number that has to grow by two bytes, in its shortest form, and be a multiple of four. What is shown is as
    short as a recipe can be."""
    with pytest.raises(Finding, match="IndexError") as found:
        fuzz("planted", planted, corpus["recipe"], runs=60_000)
    with pytest.raises(IndexError):
        planted(found.value.data)
    assert len(found.value.data) <= min(map(len, corpus["recipe"])) + 8


def test_it_keeps_what_reaches_new_lines() -> None:
    """From nothing at all, one step after the other: without a corpus that grows with coverage a magic word of four
    bytes would take 2^32 inputs."""
    from ciuic.objects.encoding import EncodingError, decode

    def nested(data: bytes) -> None:
        try:
            value = decode(data)
        except EncodingError:
            return
        if isinstance(value, dict) and value:
            raise ZeroDivisionError

    with pytest.raises(Finding, match="ZeroDivisionError"):
        fuzz("nested", nested, [b"\0"], runs=60_000)


def test_the_same_seed_makes_the_same_inputs(corpus: dict[str, list[bytes]]) -> None:
    """What fails in CI fails at home."""
    seen: list[list[bytes]] = [[], [], []]
    for number, seed in enumerate((1, 1, 2)):
        fuzz("cbor", seen[number].append, corpus["cbor"], seed=seed, runs=50)
    assert seen[0] == seen[1] != seen[2]

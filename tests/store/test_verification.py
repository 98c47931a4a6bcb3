"""fsck of a share of the data: what was read longest ago comes first, and forgetting is all that damage does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faulty import EFFECTS, Faulty
from hypothesis import given
from hypothesis import strategies as st
from ministore import Trainer, noise

from ciuic.store import fsck
from ciuic.store.fsck import FsckReport, check
from ciuic.store.pack_format import RECORD_LENGTH
from ciuic.store.store import Store
from ciuic.store.verification import EVERYTHING, Budget, last_verified, longest_ago_first, parse_budget, remember

PACKS = 10


@pytest.fixture
def trainer(trainer: Trainer) -> Trainer:
    """Ten packs of about one size."""
    for number in range(PACKS):
        trainer.commit({"w": noise(number, 20_000)})
    return trainer


def in_order(trainer: Trainer) -> list[str]:
    with trainer.store.shared():
        return longest_ago_first(trainer.store)


def read(trainer: Trainer, budget: bool | Budget, **options: object) -> tuple[FsckReport, set[str]]:
    """A check, and the packs that it read whole."""
    before = in_order(trainer)
    report = check(trainer.store, read_data=budget, **options)  # type: ignore[arg-type]
    after = list(last_verified(trainer.store))
    assert report.problems == ()
    read = set(after[len(after) - report.verified_packs :])
    assert set(before[: len(read)]) == read, "those of longest ago"
    return report, read


def test_a_share_a_day_reads_everything(trainer: Trainer) -> None:
    """With a tenth at a time each pack is read once before any is read again."""
    seen: list[set[str]] = []
    for left in range(PACKS - 1, -1, -1):
        report, packs = read(trainer, Budget(share=0.09))
        assert (report.verified_packs, report.never_verified, report.read_data) == (1, left, False)
        assert 0.09 <= report.verified_bytes / report.pack_bytes < 0.12
        seen.append(packs)
    assert set.union(*seen) == trainer.store.present
    assert read(trainer, Budget(share=0.09))[1] == seen[0], "and then from the start"
    trainer.commit({"w": noise("new", 20_000)})
    assert not read(trainer, Budget(share=0.09))[1] & set.union(*seen), "what is new comes before"


def test_a_number_of_bytes(trainer: Trainer) -> None:
    """So many bytes, in whole packs; one at least."""
    assert read(trainer, Budget(nbytes=1))[0].verified_packs == 1
    assert read(trainer, Budget(nbytes=50_000))[0].verified_packs == 3
    report, _ = read(trainer, Budget(nbytes=1 << 40))
    assert report.verified_packs == PACKS and report.read_data and report.verified_bytes == report.pack_bytes


def test_a_time(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at between rounds, each twice as large as the one before; one is read at least."""
    monkeypatch.setattr(fsck, "FIRST_ROUND_BYTES", 1)
    assert read(trainer, Budget(seconds=5), clock=lambda: 0)[0].read_data
    for seconds, packs in ((0.5, 1), (1.5, 2), (3.5, 4)):
        ticks = iter(range(100))
        report, _ = read(trainer, Budget(seconds=seconds), clock=lambda ticks=ticks: next(ticks))
        assert report.verified_packs == packs


def test_everything(trainer: Trainer) -> None:
    """Without an amount all is read, and that is remembered, too."""
    for asked in (True, EVERYTHING, Budget(share=1.0)):
        report, packs = read(trainer, asked)
        assert packs == trainer.store.present and report.read_data and report.never_verified == 0
        assert report.oldest_verification is not None
    assert not check(trainer.store).read_data
    assert check(trainer.store).never_verified == 0


def flip(trainer: Trainer, name: str) -> None:
    """The last stored byte of a pack's first record."""
    pack = trainer.store.pack(name)
    row = pack.rows[0]
    with open(pack.path, "r+b") as file:
        file.seek(row.offset + RECORD_LENGTH + row.header.stored_length - 1)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_damage_does_not_keep_the_rest_from_being_read(trainer: Trainer) -> None:
    """A damaged pack is read in its turn, and not first for ever; it does not count as verified."""
    victim = in_order(trainer)[0]
    flip(trainer, victim)
    found = [len(check(Store(trainer.store.path), read_data=Budget(share=0.09)).problems) for _ in range(PACKS + 1)]
    assert [bool(each) for each in found] == [True, *[False] * (PACKS - 1), True]
    assert set(last_verified(trainer.store)) == trainer.store.present - {victim}
    assert check(Store(trainer.store.path)).never_verified == 1


def test_damage_of_the_memory_only_forgets(trainer: Trainer) -> None:
    """Whatever stands in the file, or in its place: the check says the same, and goes on from nothing."""
    check(trainer.store, read_data=True)
    path = Path(trainer.store.join("index", "verified"))
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert last_verified(trainer.store) == {}
    for data in (b"", good[:-1], good[:80], good + b"x", b"\xff" * 100, good.split(b"\n")[0] + b"\n"):
        path.write_bytes(data)
        assert last_verified(trainer.store) == {}
    path.unlink()
    path.symlink_to(trainer.store.join("format"))
    assert check(trainer.store).never_verified == PACKS
    path.unlink()
    path.mkdir()
    report = check(trainer.store, read_data=True)
    assert report.ok and report.never_verified == PACKS and report.read_data
    path.rmdir()
    assert check(trainer.store, read_data=Budget(nbytes=1)).never_verified == PACKS - 1


def test_every_effect_of_remembering_fails(trainer: Trainer) -> None:
    """The check is as good as ever; the memory is the old one or the new one."""
    first = in_order(trainer)[:2]
    remember(trainer.store, first[:1])
    counting = Faulty()
    store = Store(trainer.store.path, counting)
    with store.shared():
        counting.count = 0
        remember(store, first[:1])
    for number in range(counting.count):
        for options in ({"for_ever": True}, {"short": True}, {}):
            store = Store(trainer.store.path)
            store.fs = Faulty(number, effects=EFFECTS, **options)  # type: ignore[arg-type]
            with store.shared():
                remember(store, first[1:])
            assert set(last_verified(trainer.store)) in ({first[0]}, set(first))
            assert check(trainer.store).ok
            with trainer.store.shared():
                remember(trainer.store, first[:1])


def test_what_is_gone_is_forgotten(trainer: Trainer) -> None:
    """And what another check has read meanwhile is not."""
    names = in_order(trainer)
    with trainer.store.shared():
        remember(trainer.store, ["ab" * 32, *names[:2]])
        remember(trainer.store, names[2:3])
        assert list(last_verified(trainer.store)) == [*sorted(names[:2]), names[2]]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5%", Budget(share=0.05)), ("0.5 %", Budget(share=0.005)), ("100%", Budget(share=1.0)),
        ("10m", Budget(seconds=600)), ("30s", Budget(seconds=30)), ("1h", Budget(seconds=3600)),
        ("1.5h", Budget(seconds=5400)), ("2d", Budget(seconds=172800)),
        ("10GiB", Budget(nbytes=10 << 30)), ("500MB", Budget(nbytes=500_000_000)), ("7B", Budget(nbytes=7)),
    ],
)  # fmt: skip
def test_amounts(text: str, budget: Budget) -> None:
    """As people write them."""
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "5", "%", "0%", "101%", "10M", "10 G", "-5%", "5%%", "1e3s", "٣%", "10mm", "nan%"]
)
def test_what_is_no_amount(text: str) -> None:
    """Nothing is guessed: 10M could be minutes."""
    assert parse_budget(text) is None


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_none(text: str) -> None:
    """And never an exception."""
    budget = parse_budget(text)
    assert budget is None or budget.bytes_of(1000) >= 0

"""Overlap or wait: the choice, step by step, without a clock."""

import pytest

from ciuic.capture.pacing import PROBE_EVERY, TRIALS, Pacer


def drive(pacer, snapshots, *, plain, overlap, wait, every=3):
    """Steps with a snapshot at every Nth; returns the modes in which the snapshots were taken."""
    modes = []
    for number in range(snapshots * every):
        if number % every:
            pacer.step(plain, None)
            continue
        mode = pacer.mode
        modes.append(mode)
        pacer.copied(0.2)
        pacer.step(overlap if mode == "overlap" else wait, mode)
    return modes


def test_overlapping_costs_nothing():
    """A device-bound loop: nothing is ever waited for."""
    assert set(drive(Pacer(), 200, plain=0.5, overlap=0.5, wait=0.7)) == {"overlap"}


def test_overlapping_costs_less_than_the_copy():
    """Partly hidden is better than not hidden."""
    assert set(drive(Pacer(), 200, plain=0.5, overlap=0.6, wait=0.7)) == {"overlap"}


def test_overlapping_makes_steps_far_slower():
    """It tries waiting, finds it better, stays, and looks again from time to time."""
    modes = drive(Pacer(), 300, plain=0.5, overlap=5.0, wait=0.7)
    assert modes[:TRIALS] == ["overlap"] * TRIALS and modes[TRIALS : 2 * TRIALS] == ["wait"] * TRIALS
    assert 0.9 < modes.count("wait") / len(modes) < 1 and "overlap" in modes[PROBE_EVERY:]


def test_waiting_is_no_better_after_all():
    """Both are slow: back to overlapping."""
    modes = drive(Pacer(), 100, plain=0.5, overlap=1.0, wait=1.2)
    assert modes[TRIALS] == "wait" and modes.count("wait") < 10 and modes[-1] == "overlap"


def test_the_machine_changes_its_mind():
    """What was better once is measured again."""
    pacer = Pacer()
    drive(pacer, 50, plain=0.5, overlap=5.0, wait=0.7)
    assert pacer.mode == "wait"
    drive(pacer, 3 * PROBE_EVERY, plain=0.5, overlap=0.5, wait=0.7)
    assert pacer.mode == "overlap"


@pytest.mark.parametrize("every", [1])
def test_without_a_plain_step_there_is_nothing_to_judge_by(every):
    """A snapshot at every step: overlapping stays."""
    assert set(drive(Pacer(), 50, plain=0.5, overlap=5.0, wait=0.7, every=every)) == {"overlap"}

"""The engine: many triggers, one decision; what fails is left out."""

import logging

from ciuic.triggers import Decision, Engine, EverySteps, Leaving, Moment, Run


class Says:
    """A trigger with an answer."""

    def __init__(self, answer):
        self.answer = answer
        self.heard = []

    def at_step(self, moment):
        return self.answer

    def start(self, run):
        self.heard.append(("start", run.path))

    def taken(self, moment, pending):
        self.heard.append(("taken", moment.step))

    def close(self):
        self.heard.append("close")


class Fails:
    """Raises wherever it is told to."""

    def __init__(self, where):
        self.where = where
        self.closed = 0
        self.asked = 0

    def start(self, run):
        self._maybe("start")

    def at_step(self, moment):
        self.asked += 1
        self._maybe("at_step")

    def taken(self, moment, pending):
        self._maybe("taken")

    def at_exception(self, error):
        self._maybe("at_exception")

    def close(self):
        self.closed += 1
        self._maybe("close")

    def _maybe(self, where):
        if where == self.where:
            raise ZeroDivisionError(where)


def at(step, **facts):
    return Moment(step, float(step), **facts)


def test_two_triggers_at_once_are_one_decision_with_both_reasons():
    """In their order; the same reason twice is said once; nobody's reason is no snapshot."""
    engine = Engine([EverySteps(2), Says(None), EverySteps(3), Says("asked"), Says("asked")])
    assert engine.at_step(at(5)).reasons == ("every 2 steps", "every 3 steps", "asked")
    assert engine.at_step(at(5)).message == "every 2 steps; every 3 steps; asked"
    assert Engine([EverySteps(2)]).at_step(at(2)) == Decision() and not Decision().due


def test_a_trigger_that_raises_is_logged_once_counted_left_out_and_closed(caplog):
    """Wherever it raises: the others are asked all the same, and nothing comes out."""
    for where in ("start", "at_step", "taken", "at_exception"):
        caplog.clear()
        bad, good = Fails(where), Says("good")
        engine = Engine([bad, good])
        for step in range(3):
            engine.start(Run("repository"))
            assert engine.at_step(at(step)).reasons == ("good",), where
            engine.taken(at(step), None)
            assert engine.at_exception(ValueError()) == ()
        assert engine.failures == {"Fails": 1} and bad.closed == 1 and bad not in engine.triggers
        assert bad.asked == {"start": 0}.get(where, 1)
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "Fails failed and is left out" in record.getMessage() and "ZeroDivisionError" in record.getMessage()
        engine.close()
        assert good.heard[-1] == "close" and bad.closed == 1


def test_a_trigger_that_cannot_be_closed_keeps_nobody_from_being_closed(caplog):
    """The others are closed, each once."""
    first, bad = Says(None), Fails("close")
    engine = Engine([first, bad])
    engine.start(Run("repository"))
    engine.close()
    engine.close()
    assert first.heard == [("start", "repository"), "close"] and engine.failures == {"Fails": 1}


def test_a_reason_that_is_no_text_is_a_failure(caplog):
    """``return True`` would be a message that nobody understands."""
    engine = Engine([Says(True)])
    assert engine.at_step(at(0)) == Decision() and engine.failures == {"Says": 1}


def test_who_wants_to_leave_is_in_the_decision():
    """With the signal and what is left of the grace time; ``leave`` asks those alone."""

    class Leaves(Says):
        def leaving(self):
            return Leaving(15, 2.5)

        def leave(self):
            self.heard.append("leave")

    leaves, stays = Leaves("SIGTERM"), Says(None)
    engine = Engine([stays, leaves])
    assert engine.at_step(at(0)) == Decision(("SIGTERM",), 15, 2.5)
    engine.leave()
    assert leaves.heard == ["leave"] and stays.heard == []


def test_boundaries_are_set_aside_only_when_a_trigger_wants_them():
    """It costs something in each step."""
    assert not Engine([Says(None), EverySteps(1)]).sets_aside and Engine([Fails("never")]).sets_aside


def test_a_trigger_sees_the_epoch_that_the_script_gives(training):
    """The first one, too, whose number is 0 and was taken for none."""
    seen = []

    class Sees:
        def at_step(self, moment):
            seen.append(moment.epoch)

    run = training(Sees())
    for epoch in (0, 1, None):
        run.sm.save(0, epoch=epoch)
    assert seen == [0, 1, None]

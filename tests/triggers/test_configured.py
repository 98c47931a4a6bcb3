"""Triggers from ``config.toml``."""

import pytest

import ciuic
from ciuic.errors import InvalidConfig
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import (
    AlertmanagerWebhook,
    BestMetric,
    Budget,
    EverySeconds,
    EverySteps,
    LossSpike,
    NonFinite,
    OnException,
    OnRequest,
    OutOfMemory,
    PrometheusQuery,
    Signals,
)  # fmt: skip
from ciuic.triggers.configured import combined, configured

EVERYTHING = """
[triggers]
every_steps = 100
every_seconds = 600
budget = 0.02
non_finite = ["loss", "gradient_norm"]
loss_spike = { window = 128, factor = 6 }
exceptions = true
out_of_memory = true
signals = { leave = ["SIGTERM"], grace_s = 10 }
best_metric = [{ metric = "validation_loss" }, { metric = "accuracy", mode = "max" }]
alertmanager = { port = 0, labels = { severity = "critical" } }

[[triggers.prometheus]]
url = "http://127.0.0.1:9090"
query = "node_memory_MemAvailable_bytes"
below = 1e9
for_s = 60
"""


def manager(path, text, **options):
    ciuic.Repo.init(path)
    with (path / "config.toml").open("a") as file:
        file.write(text)
    return SnapshotManager(path, **options)


def triggers_of(manager):
    return manager._watch.engine.triggers


def test_every_kind_can_be_configured(path):
    """With what each takes in Python, in a fixed order."""
    made = triggers_of(manager(path, EVERYTHING))
    assert [type(each) for each in made] == [
        EverySteps, EverySeconds, Budget, BestMetric, BestMetric, NonFinite, LossSpike, OnException, OutOfMemory,
        Signals, OnRequest, PrometheusQuery, AlertmanagerWebhook,
    ]  # fmt: skip
    facts = {type(each): vars(each) for each in made}
    assert facts[EverySteps]["interval"] == 100 and facts[EverySeconds]["interval_s"] == 600
    assert facts[Budget]["share"] == 0.02 and facts[NonFinite]["metrics"] == ("loss", "gradient_norm")
    assert (facts[LossSpike]["window"], facts[LossSpike]["factor"]) == (128, 6)
    assert [(each.metric, each.mode) for each in made[3:5]] == [("validation_loss", "min"), ("accuracy", "max")]
    assert facts[Signals]["grace_s"] == 10 and facts[AlertmanagerWebhook]["labels"] == {"severity": "critical"}
    assert (facts[PrometheusQuery]["below"], facts[PrometheusQuery]["for_s"]) == (1e9, 60)


def test_without_a_word_a_run_hears_requests_and_nothing_else(path):
    """No signal handler and no hook that nobody has asked for; and the requests can be turned off."""
    assert [type(each) for each in triggers_of(SnapshotManager(path))] == [OnRequest]
    assert configured({"on_request": False, "signals": False}) == []


def test_short_forms():
    """A value stands for the first setting, true for what is there by default."""
    made = configured({"best_metric": "loss", "non_finite": True, "signals": True, "alertmanager": 9099})
    assert [type(each) for each in made] == [BestMetric, NonFinite, Signals, OnRequest, AlertmanagerWebhook]
    assert made[1].metrics == ("loss",) and made[4].port == 9099


def test_what_python_gives_wins_kind_by_kind(path):
    """Of a kind that is given, the table's is left out; the others are added."""
    text = '[triggers]\nevery_steps = 5\nnon_finite = true\nbest_metric = "loss"\n'
    made = triggers_of(manager(path, text, auto_save_interval=2, triggers=[BestMetric("accuracy", "max")]))
    assert [type(each) for each in made] == [EverySteps, BestMetric, NonFinite, OnRequest]
    assert made[0].interval == 2 and made[1].metric == "accuracy"
    own = OnRequest()
    assert combined({"on_request": False}, [own]) == [own]


def test_a_configured_interval_takes_snapshots(path):
    """From the file alone."""
    with manager(path, "[triggers]\nevery_steps = 2\n") as sm:
        sm.track(counter={"n": 1})
        for _ in range(4):
            sm.step()
    assert [snapshot.step for snapshot in ciuic.Repo(path).log()] == [3, 1]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"every_step": 5}, "unknown trigger 'every_step'"), ({"every_steps": "5"}, "interval must be a whole number"),
        ({"every_steps": True}, "interval must be a whole number"), ({"every_steps": 0}, "at least 1"),
        ({"budget": 2}, "share"), ({"budget": {"part": 0.1}}, "unknown setting 'part'"),
        ({"signals": 5}, "true or false or a table"), ({"exceptions": {"kinds": []}}, "unknown setting 'kinds'"),
        ({"signals": {"leave": ["SIGKILL"]}}, "no signal"), ({"non_finite": [1]}, "a list of texts"),
        ({"prometheus": {"url": "http://p", "above": 1}}, "lacks a setting: query"),
        ({"prometheus": [{"url": "http://p", "query": "x"}]}, "above or below"),
        ({"prometheus": 7}, "a table or a list of tables"),
        ({"alertmanager": {"port": 1, "labels": {"a": 1}}}, "texts"),
        ({"best_metric": {"metric": "loss", "mode": "least"}}, "mode"),
        ({"every_seconds": float("inf")}, "must be a number"), ({"signals": {"grace_s": 1e7}}, "at most"),
        ({"budget": {"share": 0.1, "least_s": float("nan")}}, "must be a number"),
        ({"prometheus": {"url": "http://p", "query": " ", "above": 1}}, "PromQL"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(table, said):
    """The setting and what it has to be: a word that is spelt wrong must not mean that nothing is saved."""
    with pytest.raises(InvalidConfig, match=said) as caught:
        configured(table)
    assert str(caught.value).startswith("config.toml: ") and str(caught.value).endswith(".")

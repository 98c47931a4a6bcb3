"""The dashboard and the alert rules in docs/monitoring: they name what is exported, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ciuic.monitoring.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "dashboard.json"
EXPORTED = {name for metric in METRICS for name in metric.samples}
PROMTOOL = shutil.which("promtool")


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bciuic_[a-z_]+\b", text))


def expressions() -> list[str]:
    """Every query of the dashboard, its variables' too."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return queries + [each["definition"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """And shows every metric but those that only alerts are made of."""
    asked = {name for query in expressions() for name in names_in(query)}
    assert asked <= EXPORTED
    assert EXPORTED - asked == {"ciuic_last_snapshot_timestamp_seconds", "ciuic_monitoring_errors_total"}


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own and do not overlap; every query is of the chosen data source and runs."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    for panel in panels:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count('run=~"$run"') == len(re.findall(r"\bciuic_[a-z_]+\{", target["expr"])) > 0


def test_the_alerts_ask_for_what_there_is() -> None:
    queries = re.findall(r"^ +expr: (.*)$", RULES.read_text(), re.MULTILINE)
    assert len(queries) == RULES.read_text().count("- alert:") > 5
    assert {name for query in queries for name in names_in(query)} <= EXPORTED


def test_the_page_lists_every_metric() -> None:
    page = (DOCS / "monitoring.md").read_text()
    listed = set(re.findall(r"^\| `(ciuic_[a-z_]+)", page, re.MULTILINE))
    assert listed == {metric.samples[0] if metric.kind != "summary" else metric.name for metric in METRICS}
    assert names_in(page) <= EXPORTED | {metric.name for metric in METRICS}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


FIRING = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'ciuic_last_snapshot_age_seconds{{run="a"}}', values: '0+60x100'}}
      - {{series: 'ciuic_snapshots_failed_total{{run="a"}}', values: '0x49 1x50'}}
      - {{series: 'ciuic_step{{run="a"}}', values: '0+1x100'}}
      - {{series: 'ciuic_step{{run="hung"}}', values: '7x100'}}
    alert_rule_test:
      - {{alertname: CiuicSnapshotTooOld, eval_time: 30m}}
      - alertname: CiuicSnapshotTooOld
        eval_time: 70m
        exp_alerts:
          - exp_labels: {{run: a, severity: warning}}
            exp_annotations:
              summary: "a: the newest durable snapshot is 1h 10m 0s old"
              description: A crash now costs that much of the run. See the log of the training, and `ciuic doctor` where it runs.
      - {{alertname: CiuicSnapshotsFail, eval_time: 40m}}
      - alertname: CiuicSnapshotsFail
        eval_time: 55m
        exp_alerts:
          - exp_labels: {{run: a, severity: critical}}
            exp_annotations:
              summary: "a: a snapshot did not come about"
              description: Training goes on, and the next steps try again. The log of the training says why; a full disk is the usual reason.
      - alertname: CiuicTrainingHangs
        eval_time: 50m
        exp_alerts:
          - exp_labels: {{run: hung, severity: critical}}
            exp_annotations:
              summary: "hung: no step for half an hour"
              description: The process lives and answers, and does not train.
"""  # noqa: E501


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """By Prometheus itself, on made-up series: an old snapshot, a failure, a run that stands still."""
    (tmp_path / "test.yml").write_text(FIRING.format(rules=RULES))
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

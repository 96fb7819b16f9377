"""Alarms and the dashboard name metrics that exist; the alarms' own tests pass."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from generation.infra import gauges, metrics

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
OPERATIONS = MONITORING.parents[1] / "docs" / "operations.md"
BOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
PARTS = ("_bucket", "_sum", "_count")  # of a histogram


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bretort_\w+", expression))


@pytest.fixture
def exposed(redis_server) -> dict[str, set[str]]:
    """The labels of each metric of /metrics; those of a histogram's parts under their own names."""
    families = [
        *metrics.recorded(),
        *gauges.collect(),
        *gauges.of_web({"busy": 0, "stuck_seconds": 0}),
    ]
    found = {family.name: set(getattr(family, "_labelnames", ())) for family in families}
    for name, counter in metrics.COUNTERS.items():
        found[name] = set(counter.labels)
    for name, histogram in metrics.HISTOGRAMS.items():
        found |= {name + part: {*histogram.labels, "le"} for part in PARTS}
    return found


@pytest.mark.django_db
def test_every_metric_of_the_alarms_and_of_the_dashboard_exists(exposed):
    expressions = [rule["expr"] for rule in RULES]
    expressions += [t["expr"] for panel in BOARD["panels"] for t in panel.get("targets", ())]
    assert len(expressions) > 40
    for expression in expressions:
        assert named(expression) <= exposed.keys(), expression
        for name, selected in re.findall(r"\b(retort_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)[=!]", selected)) <= exposed[name], expression


def test_every_alarm_has_a_severity_a_summary_and_advice():
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"]["summary"] and rule["annotations"]["advice"], rule["alert"]


def test_every_alarm_is_explained_and_has_a_test():
    names = {rule["alert"] for rule in RULES}
    table = OPERATIONS.read_text().split("## Alerts", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"`(Retort\w+)`", table)) == names
    tests = (MONITORING / "rules.test.yml").read_text()
    assert set(re.findall(r"\bRetort\w+", tests)) == names


def test_the_panels_of_the_dashboard_do_not_overlap():
    panels: list[dict[str, Any]] = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is missing: apt install promtool"
)
@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_promtool_accepts_rules_and_passes_their_tests(command: tuple[str, ...]):
    done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

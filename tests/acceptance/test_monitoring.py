"""A real Prometheus reads a real stack: every query of the dashboard and every metric of the alarms has data."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from deploy.local import ports
from tests.acceptance.stack import ROOT, Stack, wait_for

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("prometheus"), reason="prometheus is missing: apt install prometheus"
    ),
]

SLUG, TEXT = "red-glass-vase-table", "a red glass vase on the wooden table"  # TEXT must be matched
MONITORING = ROOT / "deploy" / "monitoring"
# Metrics that a stack without faults does not send, and why.
ABSENT = {
    "retort_faulty_workers": "no worker has a fault",
}
SELECTOR = re.compile(r"(?:\bretort_\w+|\bup)(?:\{[^}]*\})?")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A separate stack: other tests break theirs, which raises alarms. Images of SLUG are judged."""
    home = tmp_path_factory.mktemp("monitored")
    with Stack(home / "home", workers=1, env={"SWEEP_SECONDS": "1"}) as stack:
        stack.query("UPDATE generation_promptvariant SET max_tries = 1 WHERE slug = %s", SLUG)
        yield stack
        assert stack.stop() == 0


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[httpx.Client]:
    """Prometheus with the project's configuration, except for target, token and intervals."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "2s"}
    (tmp_path / "token").write_text(stack.run["metrics_token"])
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(tmp_path / "token")
    job["static_configs"] = [{"targets": [urlsplit(stack.run["base_url"]).netloc]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "rules.yml", tmp_path)
    address = f"127.0.0.1:{ports.pick()}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
             f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    with httpx.Client(base_url=f"http://{address}/api/v1", timeout=60) as client:
        try:
            wait_for(lambda: _is_ready(client, process), "Prometheus is ready")
            yield client
        finally:
            process.terminate()
            process.wait(timeout=60)


def _is_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus ended; its log is beside its configuration"
    try:
        return client.get("/status/runtimeinfo").is_success
    except httpx.TransportError:
        return False


def _values(prometheus: httpx.Client, expression: str) -> list[float]:
    """Return the current values of a query without NaN, such as a quantile of no requests."""
    answer = prometheus.get("/query", params={"query": expression}).raise_for_status().json()
    values = [float(row["value"][1]) for row in answer["data"]["result"]]
    return [value for value in values if value == value]


def test_the_dashboard_and_the_alarms_have_data(stack: Stack, prometheus: httpx.Client):
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules: list[dict[str, Any]] = [
        rule
        for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    of_alarms = sorted({found for rule in rules for found in SELECTOR.findall(rule["expr"])})
    expected = [
        expression for expression in (*shown, *of_alarms)
        if not any(name in expression and "or vector" not in expression for name in ABSENT)
    ]  # fmt: skip
    assert len(expected) > 50

    def matched() -> str | None:
        answer = stack.http.post("/v1/jobs", json={"text": TEXT})
        return answer.json()["id"] if answer.is_success else None

    def missing() -> list[str]:
        # Counters move between two reads.
        by_slug = stack.submit(variant=SLUG)["id"]
        stack.ended([by_slug, wait_for(matched, "the encode worker answers")])
        return [one for one in expected if not _values(prometheus, one)]

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not missing(), "every query has data", seconds=180)
    assert missing() == []

    groups = prometheus.get("/rules").raise_for_status().json()["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules)
    assert [rule["name"] for rule in found if rule["health"] != "ok"] == []
    firing = [rule["name"] for rule in found if rule["state"] == "firing"]
    assert firing == [], "alarms of a stack where nothing is wrong"

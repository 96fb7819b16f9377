"""The documents list what the code has: fields, codes, URLs, metrics, log events."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from django.urls import URLPattern
from django_structlog.middlewares import request as request_log

from distillation import urls as distillation_urls
from distillation.models import Run
from generation import urls
from generation.api import problems
from generation.engine.release import Manifest
from generation.infra import metrics
from generation.models import APIKey, Attempt, Job

ROOT = Path(__file__).resolve().parents[1]


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def first_cells(text: str) -> set[str]:
    """Return every word in code type in the first column of a table."""
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_every_field_of_the_manifest_is_explained():
    text = document("release-format.md").split("## Fields of", 1)[1].split("\n## ", 1)[0]
    assert first_cells(text) == {field.name for field in fields(Manifest)}


def test_the_table_of_errors_has_every_code_and_status_of_answers():
    text = document("api.md").split("| code | status |", 1)[1].split("\n\n", 1)[0]
    listed = {
        (code, int(status))
        for codes, status in re.findall(r"^\| ([^|]+) \| (\d+) \|", text, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert listed == {(known.code, known.status) for known in problems.known() if known.status}


def test_the_table_of_failures_has_every_code_of_jobs():
    text = document("api.md").split("| code | retried automatically |", 1)[1].split("\n\n", 1)[0]
    assert first_cells(text) == {known.code for known in problems.known() if known.is_of_jobs}


def test_every_url_of_the_api_is_listed():
    listed = {
        re.sub(r"\{\w+\}", "{}", match)
        for match in re.findall(r"`(?:GET|POST) /([^?`]+)", document("api.md"))
    }
    routes = [
        str(pattern.pattern)
        for pattern in (*urls.urlpatterns, *distillation_urls.urlpatterns)
        if isinstance(pattern, URLPattern)
    ]
    known = {re.sub(r"<[^>]+>", "{}", route) for route in routes if route.startswith("v1/")}
    assert listed == known - {"v1/openapi.json", "v1/docs", "v1/guide"}
    assert all(f"/v1/{page}" in document("api.md") for page in ("docs", "openapi.json", "guide"))


def test_every_scope_of_a_key_is_explained():
    assert set(APIKey.Scope.values) <= first_cells(document("api.md"))


def gauges() -> set[str]:
    files = ("metrics.py", "gauges.py")
    places = [*(f"generation/infra/{name}" for name in files), "distillation/runs/gauges.py"]
    source = "".join((ROOT / file).read_text() for file in places)
    return set(re.findall(r'GaugeMetricFamily\(\s*"(retort_\w+)"', source))


def test_the_version_is_that_of_the_package(settings):
    assert f'version = "{settings.VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_every_metric_is_explained():
    named = {word.split("{")[0] for word in first_cells(document("operations.md"))}
    recorded = set(metrics.COUNTERS) | set(metrics.HISTOGRAMS)
    assert {word for word in named if word.startswith("retort_")} == recorded | gauges()


def explained_events() -> set[str]:
    text = document("operations.md").split("## Logs", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\|[^|]*\|([^|]+)\|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def logged_events() -> set[str]:
    """Return every event in the code, and those of the request log's library. Variable parts are spelled out."""
    own = "\n".join(
        path.read_text()
        for app in ("generation", "distillation", "project")
        for path in (ROOT / app).rglob("*.py")
    )
    events = set(
        re.findall(r'\blog\.(?:info|warning|error|exception)[(,]\s*f?"(\w+|run_{to})[":]', own)
    )
    events |= set(re.findall(r'\blog\.info, "(\w+)"', own))
    # Logged through the report of a transaction: `report.moved(job_id, status, event)`.
    events |= set(re.findall(r'"(job_(?:claimed|retried))"', own))
    events |= {f"job_{status}" for status in Job.Status.values if status != Job.Status.RUNNING}
    events |= {f"run_{status}" for status in (Run.Status.PAUSED, Run.Status.CANCELED)}
    requests = Path(request_log.__file__).read_text()
    return events - {"run_{to}"} | set(
        re.findall(r'"(request_(?:started|finished|failed))"', requests)
    )


def test_every_event_is_explained_and_every_explained_one_is_logged():
    explained, logged = explained_events(), logged_events()
    assert sorted(logged - explained) == [] and sorted(explained - logged) == []


@pytest.mark.parametrize("app", ["generation", "distillation"])
def test_the_architecture_names_every_module_in_the_row_of_its_package(app: str):
    text = document("architecture.md").split(f"### `{app}`:", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    listed = {
        f"{package}/{module}"
        for package, modules in rows
        for module in re.findall(r"`([\w-]+)`", modules)
    }
    paths = [
        path.relative_to(ROOT)
        for path in (ROOT / app).rglob("*.py")
        if path.name != "__init__.py" and "migrations" not in path.parts
    ]
    existing = {
        f"{path.parent.relative_to(app) if path.parent != Path(app) else app}/{path.stem}"
        for path in paths
    }
    assert sorted(existing - listed) == [] and sorted(listed - existing) == []


def test_every_status_and_outcome_is_explained():
    text = document("job-lifecycle.md")
    statuses = re.findall(r"^\| (\w+) \|", text.split("## States", 1)[1].split("\n## ", 1)[0], re.M)
    assert [word for word in statuses if word != "status"] == Job.Status.values
    attempts = text.split("## Attempts and failures", 1)[1].split("\n## ", 1)[0]
    assert [outcome for outcome in Attempt.Outcome.values if outcome not in attempts] == []


def test_the_tests_cited_in_the_reliability_document_exist():
    named = re.findall(r"`(\S+\.py)::(\w+)`", document("reliability.md"))
    assert len(named) > 30
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert missing == []

"""Every page of the admin in Chromium, wide and narrow, light and dark: axe finds nothing, and dates have one format.

A new page is found by its URL. A new model needs a row in `rows`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Group
from django.db.models import Model
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)

from distillation import folders
from distillation.designs.candidates import Rows
from distillation.detectors import registry as detectors
from distillation.models import Decision, Design
from distillation.runs import lifecycle as runs
from generation.access import audit
from generation.models import (
    Attempt,
    Job,
    PromptVariant,
    Queue,
    StockedImage,
    WebhookEndpoint,
)
from tests.acceptance import browser
from tests.acceptance.browser import Visitor
from tests.distillation.design.candidates import PARAMS, candidate
from tests.distillation.detector.folders import make_version
from tests.distillation.example_factories import make_example, make_source, make_verdict
from tests.distillation.factories import make_run
from tests.distillation.pictures import png
from tests.distillation.reporting import figures, summary, write_stage
from tests.factories import (
    cover,
    make_delivery,
    make_image,
    make_job,
    make_key,
    make_quality,
    make_release,
    make_user,
    make_variant,
    make_worker,
)
from tests.web import Web

pytestmark = browser.MARKS

PASSWORD = "a good password"
STARTER = Path(__file__).resolve().parents[3] / "generation" / "starter" / "teacher"
APPS = sorted({model._meta.app_label for model in admin.site._registry})
# Parameters of URLs that name a row. URLs with others are files, parts of pages, or accept POST only.
PARAMETERS = {"object_id", "id"}
# Opens what is closed, which then covers what is below it. Returns whether anything was opened.
OPEN = """() => {
    const closed = document.querySelectorAll("main details:not([open])");
    const opens = (link) => link.getAttribute("x-on:click") === "filterOpen = true";
    const filters = [...document.querySelectorAll("main a")].find(opens);
    for (const details of closed) details.open = true;
    filters?.click();
    return closed.length > 0 || filters !== undefined;
}"""
CHOOSE = """([field, row, action]) => {
    const form = document.querySelector("#changelist-form");
    form.querySelector(`[name="${field}"][value="${row}"]`).checked = true;
    form.querySelector("[name=action]").value = action;
    form.submit();
}"""
OTHER_DATES = re.compile(r".*(?:\b[ap]\.m\.|\b[A-Z][a-z]{2,8}\.? \d{1,2}, \d{4}).*")
# Rule and part of the element of violations by a library, and why they are harmless.
HARMLESS = {
    # Select2 puts the chosen values into a span within its list. They are read as text.
    ("list", "select2-selection__rendered"),
}


@pytest.fixture
def visitor(tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    """A superuser, on a web process that reads this test's data folder."""
    make_user(username="admin", password=PASSWORD, is_superuser=True)
    web = Web(tmp_path, DATA_DIR=str(settings.DATA_DIR))
    with browser.visiting(web.url, monkeypatch, bypass_csp=True, reduced_motion="reduce") as found:
        found.page.goto("/admin/login/?next=/admin/")
        found.page.fill("[name=username]", "admin")
        found.page.fill("[name=password]", PASSWORD)
        found.page.press("[name=password]", "Enter")
        found.page.wait_for_url("**/admin/")
        yield found
    web.stop()


@pytest.fixture
def rows(db, tmp_path: Path) -> None:
    """Create at least one row of each model, in states that fill its pages."""
    Group.objects.create(name="editors")
    user = make_user(username="owner")
    make_key(owner=user)
    audit.record("key_created", "a key", detail={"scopes": "jobs:read"})
    teacher = make_release(name="starter-teacher", kind="teacher", image_sizes=((64, 64),))
    active = make_release(name="student-old", parent="starter-teacher")
    candidate_release = make_release(
        name="student-new", parent="starter-teacher", status="candidate"
    )
    candidate_release.manifest["evaluation"] = summary()
    candidate_release.save()
    make_variant(slug="new", text="a new mug", tags=["mug"])
    variant = make_variant(slug="vase", text="a red vase", tags=["vase", "red"], notes="A note.")
    for status in Job.Status.values:
        make_job(variant=variant, release=active, status=status)
    job = Job.objects.get(status="succeeded")
    Attempt.objects.create(job=job, number=1, worker_name="worker-1", batch_size=2)
    make_image(job=job)
    cover(active, {"vase": "a red vase"})
    make_quality(active, "a red vase", 3)
    StockedImage.objects.create(
        release=active, variant=variant, embedding=job.embedding, width=64, height=64, format="webp",
        file="images/aa/a.webp", master="images/aa/a.png", size_bytes=1, image={"seed": 4711},
    )  # fmt: skip
    attempt = {"at": timezone.now().isoformat(), "status": 500, "error": "The response was 500."}
    make_delivery(job=job, status="dead", attempt_log=[attempt])
    make_worker(release=active)
    Queue.objects.get_or_create(name="generation")
    check = {"name": "diversity to active", "passed": False, "limit": 0.9, "found": 0.71,
             "low": 0.68, "detail": ""}  # fmt: skip
    make_run(
        name="student-new", teacher=teacher, begins_with=active, replaces=active, release=candidate_release,
        status="succeeded", outcome="rejected", finished_at=timezone.now(), reasons=["2 are new"],
        gate={"passed": False, "checks": [check]},
    )  # fmt: skip
    write_stage(
        "reports/student-new",
        {"evaluation.json": figures(), "active.json": figures(new="mug"), "report.html": "<h1>",
         "compared.webp": png(), "clip.png": png()},
    )  # fmt: skip
    make_run(teacher=teacher, folders={"joint": "joint-1"})
    write_stage("joint-1", {"metrics.jsonl": '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}'})
    runs.note(runs.claim("worker-1")[1], stage="joint", percent=40.0)
    found = Rows(
        Design.objects.create(
            recipe={"recipe": "starter-1step"}, teacher=teacher, limits={"size": 8_000_000},
            hours=2, most_candidates=4, is_for_workers=True,
        )
    )  # fmt: skip
    found.add(lambda known: PARAMS)
    found.keep(candidate(0, 0.91))
    for release in (active, candidate_release):
        folder = folders.root() / "pictures" / f"{release.name}-{'0' * 16}"
        folder.mkdir(parents=True)
        (folder / f"{job.embedding.sha256[:24]}-5.png").write_bytes(png())
    Decision.objects.create(is_start=False, reasons=["Nothing has changed."], facts={"new": 0})
    detector = detectors.register(make_version(tmp_path / "made", name="mine"))
    example = make_example(source=make_source(variants=[variant]), content=png(), side=64)
    make_verdict(example, detector=detector, failing=["red"])
    every = IntervalSchedule.objects.create(every=1, period="hours")
    PeriodicTask.objects.create(name="consider", task="distillation.consider", interval=every)
    CrontabSchedule.objects.create()
    ClockedSchedule.objects.create(clocked_time=timezone.now())


def pages_of(app: str) -> Iterator[str]:
    """Yield the URLs of the app's models in the admin; the URLs of a row for each row."""
    for its_admin in admins_of(app):
        rows = its_admin.get_queryset(as_superuser())
        assert rows, f"Make a row of {its_admin.model.__name__} in `rows`: no page of it is seen."
        for pattern in its_admin.get_urls():
            names = list(pattern.pattern.converters)
            if pattern.name and set(names) <= PARAMETERS:
                for row in rows if names else [None]:
                    yield reverse(f"admin:{pattern.name}", args=[row.pk for _ in names if row])


def admins_of(app: str) -> list[Any]:
    return [
        its_admin
        for model, its_admin in admin.site._registry.items()
        if model._meta.app_label == app
    ]


def as_superuser() -> HttpRequest:
    request = RequestFactory().get("/")
    request.user = make_user(username="admin")
    return request


class Examination:
    """Violations of pages: the rule and the element → where they were seen."""

    def __init__(self, visitor: Visitor) -> None:
        self.page = visitor.page
        self.found: dict[str, list[str]] = defaultdict(list)
        self.seen: list[str] = []

    def look(self, where: str) -> None:
        """Examine the shown page, wide and narrow, and narrow with everything opened."""
        self.seen.append(where)
        for date in OTHER_DATES.findall(self.page.locator("body").inner_text()):
            self.found[f"date in another format: {date}"].append(where)
        for width in (1440, 390):
            self.page.set_viewport_size({"width": width, "height": 844})
            self._look(f"{where} {width}")
        if self.page.evaluate(OPEN):
            self._look(f"{where} 390, opened")

    def _look(self, where: str) -> None:
        for theme in ("light", "dark"):
            self.page.evaluate("name => { document.documentElement.className = name }", theme)
            for violation in Axe().run(self.page).response["violations"]:
                rule = violation["id"]
                for node in violation["nodes"]:
                    html = node["html"][:300]
                    if not any(rule == name and part in html for name, part in HARMLESS):
                        what = f"{rule}: {html}: {node['failureSummary']}"
                        self.found[what].append(f"{where} {theme}")

    def report(self) -> str:
        return "\n".join(f"{what}\n  on {', '.join(where)}" for what, where in self.found.items())


@pytest.mark.parametrize("app", APPS)
def test_axe_finds_nothing_on_the_pages_of_an_app(app: str, rows, visitor: Visitor):
    examination = Examination(visitor)
    for address in pages_of(app):
        answer = visitor.context.request.get(address, max_redirects=0)
        assert answer.status in (200, 302, 403, 405), (address, answer.status)
        if answer.status == 200 and answer.headers["content-type"].startswith("text/html"):
            visitor.page.goto(address)
            examination.look(address)
    assert len(examination.seen) > 3 * len(admins_of(app))
    assert not examination.found, examination.report()


@pytest.mark.parametrize("app", APPS)
def test_axe_finds_nothing_on_confirmations_of_actions(app: str, rows, visitor: Visitor):
    examination = Examination(visitor)
    for its_admin in admins_of(app):
        for name, row in confirmed_actions(its_admin):
            visitor.page.goto(reverse(f"admin:{app}_{its_admin.opts.model_name}_changelist"))
            visitor.page.evaluate(CHOOSE, [ACTION_CHECKBOX_NAME, str(row.pk), name])
            visitor.page.wait_for_function("() => !document.querySelector('#result_list')")
            examination.look(f"{name} of {its_admin.opts.model_name}")
    assert examination.seen
    assert not examination.found, examination.report()


def confirmed_actions(its_admin: Any) -> Iterator[tuple[str, Model]]:
    """Yield actions that need a confirmation, each with a row to which it applies."""
    rows = list(its_admin.get_queryset(as_superuser()))
    for name in its_admin.get_actions(as_superuser()):
        if name == "delete_selected":
            yield name, rows[0]
        elif name in getattr(its_admin, "object_actions", ()):
            for row in rows:
                if its_admin.action_applies(name, row) and its_admin.confirmation(name, row):
                    yield name, row
                    break


def test_axe_finds_nothing_on_pages_after_forms(rows, visitor: Visitor):
    examination = Examination(visitor)
    page = visitor.page
    page.goto("/admin/generation/promptvariant/import/")
    page.set_input_files(
        "[type=file]",
        {"name": "prompts.csv", "mimeType": "text/csv", "buffer": b"text,tags\na red mug,mug\n"},
    )
    page.locator("main form [type=submit]").first.click()
    page.get_by_text("a red mug").first.wait_for()
    examination.look("preview of an import")
    page.goto("/admin/generation/promptvariant/")
    page.evaluate(
        CHOOSE, [ACTION_CHECKBOX_NAME, str(PromptVariant.objects.all()[0].pk), "put_tags"]
    )
    page.get_by_role("button", name="Change the tags").wait_for()
    examination.look("tags of several")
    page.goto("/admin/generation/promptvariant/")
    page.evaluate(
        CHOOSE, [ACTION_CHECKBOX_NAME, str(PromptVariant.objects.all()[0].pk), "put_into_run"]
    )
    page.get_by_role("button", name="Go on to the run").wait_for()
    examination.look("several put into a run")
    page.get_by_role("button", name="Go on to the run").click()
    page.get_by_role("button", name="Show the plan").wait_for()
    examination.look("run for several")
    endpoint = WebhookEndpoint.objects.get()
    page.goto(reverse("admin:generation_webhookendpoint_change", args=[endpoint.pk]))
    page.get_by_role("button", name="Send now").click()
    page.get_by_text("1 will be sent now.").wait_for()
    examination.look("delivery that is sent now")
    make_release(name="with-encoder", kind="teacher", has_encoder=True, path=str(STARTER))
    page.goto("/admin/generation/promptvariant/add/")
    page.locator("#id_text").press_sequentially("a red elephant")
    page.get_by_text("The text encoder does not know “elephant”").wait_for()
    examination.look("unknown words while a prompt is typed")
    page.goto("/admin/distillation/run/add/")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_text("Nothing was started.").wait_for()
    examination.look("plan of a run")
    page.goto("/admin/generation/apikey/add/")
    page.locator("[name=_save]").click()
    page.locator(".errornote, .errorlist, [id*=error]").first.wait_for()
    examination.look("errors of a form")
    page.fill("[name=name]", "new")
    page.locator("[name=_save]").click()
    page.get_by_text("Copy the key now").wait_for()
    examination.look("new key")
    assert not examination.found, examination.report()


def test_axe_finds_nothing_on_other_pages(rows, visitor: Visitor):
    examination = Examination(visitor)
    page = visitor.page
    for address in (
        reverse("admin:index"),
        reverse("admin:password_change"),
        reverse("admin:generation_release_compare") + "?first=student-old&second=student-new",
        reverse("admin:generation_release_blind") + "?first=student-old&second=student-new",
    ):
        page.goto(address)
        examination.look(address)
    for app in APPS:
        page.goto(reverse("admin:app_list", args=[app]))
        examination.look(app)
    visitor.context.clear_cookies()
    page.goto(reverse("admin:login"))
    examination.look("login")
    assert not examination.found, examination.report()

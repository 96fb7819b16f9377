"""Admin of runs: start, progress, control, gate, schedule."""

import html
import json
import shutil
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from distillation import folders
from distillation.models import Decision, Run, Slice
from distillation.pipeline import summaries
from distillation.pipeline.recipes import RECIPES, Recipe
from distillation.reports import prompt_changes
from distillation.runs import lifecycle as runs
from generation.models import AuditEntry, PromptVariant, Release
from generation.releases import lifecycle as releases
from tests.distillation.factories import make_run
from tests.distillation.reporting import figures, summary, write_stage
from tests.factories import (
    cover,
    make_embedding,
    make_quality,
    make_release,
    make_user,
    make_variant,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(page: str, *args: object, model: str = "run") -> str:
    return reverse(f"admin:distillation_{model}_{page}", args=args)


def text(answer) -> str:
    return answer.content.decode()


# --- beginning ------------------------------------------------------------------------------------
def test_a_run_is_started_in_the_form_and_a_second_one_is_refused(admin, settings):
    make_release(name="teacher-1", kind="teacher", image_sizes=((128, 128),))
    make_variant()
    page = admin.get(url("add"))
    assert settings.DISTILLATION_RECIPE in text(page)
    given = {"recipe": "starter-2step", "trains_on": "on", "policy": "manual"}
    assert admin.post(url("add"), given).status_code == 302
    run = Run.objects.get()
    assert (run.recipe, run.policy) == ({"recipe": "starter-2step"}, "manual")
    assert (run.trigger, run.created_by.username) == ("person", "admin")
    entry = AuditEntry.objects.get(action="run_created", actor="admin")
    assert (entry.subject, entry.detail["recipe"]) == (run.name, "starter-2step")

    answer = admin.post(url("add"), given, follow=True)
    assert f"The run {run.name} of teacher-1 is queued" in text(answer)
    assert Run.objects.count() == 1


@pytest.fixture
def ready() -> None:
    """A teacher and a catalogue, so that a run can be started."""
    make_release(name="teacher-1", kind="teacher", image_sizes=((128, 128),))
    make_variant(slug="red-glass-vase")


def start(client: Client, **given: object):
    form = {"recipe": "starter-1step", "trains_on": "on", "policy": "manual"}
    return client.post(url("add"), form | given, follow=True)


@pytest.mark.parametrize("recipe", ["my-recipe", "nowhere.json", "/etc/passwd", "../x.json", "{}"])
def test_only_offered_recipes_are_accepted(admin, ready, tmp_path, recipe):
    there = tmp_path / "there.json"
    there.write_text('{"recipe": "starter-2step"}')
    for given in (recipe, str(there)):
        errors = start(admin, recipe=given).context["adminform"].form.errors
        assert set(errors) == {"recipe"} and given in str(errors.as_data()["recipe"][0].messages)
    assert not Run.objects.exists()


def test_each_recipe_is_offered_with_its_summary(admin):
    field = admin.get(url("add")).context["adminform"].form.fields["recipe"]
    offered = dict(field.choices)
    assert set(offered) == set(RECIPES)
    assert {part.name for part in fields(Recipe)} == set(summaries.FIELDS)
    assert all(RECIPES[name].summary in label for name, label in offered.items())


def test_each_recipe_is_offered_with_the_duration_of_earlier_runs(admin):
    run = make_run(status="succeeded", finished_at=timezone.now())
    ended = timezone.now()
    Slice.objects.create(run=run, number=1, worker_name="w", outcome="finished",
                         started_at=ended - timedelta(minutes=14), ended_at=ended)  # fmt: skip
    offered = dict(admin.get(url("add")).context["adminform"].form.fields["recipe"].choices)
    assert (
        "Time: 100 minutes continuing a student on two cores of an AMD EPYC for 276 prompts (not measured here yet), "
        "14 minutes from the teacher (1 run)." in offered["starter-1step"]
    )
    assert "Time: not measured here yet." in offered["starter-2step"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_forms_summary_of_a_recipe_equals_the_recipe(name):
    recipe, fit = RECIPES[name], summaries.FITS[name]
    assert fit == summaries.Fit(
        recipe.image_size,
        recipe.timesteps,
        recipe.again.steps if recipe.again else None,
        recipe.most_variants,
    )


def test_a_plan_describes_a_run_without_starting_it(admin, ready):
    make_release(name="student-old", parent="teacher-1", steps=1, covered_variants=["another"])
    page = text(start(admin, _plan="1", recipe="rehearsal"))
    for part in (
        "Plan",
        "A run of the recipe rehearsal, continuing student-old, for 1 prompt variant, 1 of them new",
        "red-glass-vase",
        "Only a person can activate its release.",
        "No earlier run like it",
        "Nothing was started",
    ):
        assert part in page, part
    assert 'value="rehearsal"' in page and not Run.objects.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipe": "sd15-tiny-1step"}, "teachers of 512 × 512 pixels, and teacher-1 makes 128 × 128"),
        ({"recipe": "hinton"}, "no joint training that continues a student"),
        ({"recipe": "starter-2step"}, "student of 2 passes"),
    ],
)  # fmt: skip
def test_an_unsuitable_recipe_is_refused_before_a_worker_starts(admin, ready, given, words):
    make_release(name="student-old", parent="teacher-1", steps=1)
    assert words in text(start(admin, _plan="1", **given))
    assert words in text(start(admin, **given)) and not Run.objects.exists()
    start(admin, **{"recipe": "starter-2step", "trains_on": ""})
    assert Run.objects.get().begins_with is None


def test_the_plan_of_a_partial_run_names_its_tags(admin, ready):
    make_variant(slug="blue-bowl", tags=["bowl"])
    page = text(start(admin, _plan="1", part="bowl, cup"))
    assert "for 1 prompt variant, those with the tags bowl, cup: it makes a specialist" in page
    assert 'value="bowl, cup"' in page
    assert "has a tag of spoon" in text(start(admin, part="spoon"))
    start(admin, part="bowl, cup")
    assert Run.objects.get().tags == ["bowl", "cup"]


def test_a_plan_names_the_open_run(admin, ready):
    start(admin)
    assert "is queued (0 %): wait for it" in text(start(admin, _plan="1"))


def test_a_refused_start_shows_the_form_with_the_given_values(admin, ready):
    make_variant(slug="blue-bowl", tags=["vase"])
    start(admin)
    page = text(start(admin, recipe="rehearsal", part="vase", trains_on=""))
    assert "is queued" in page and 'value="vase"' in page
    form = admin.post(url("add"), {"recipe": "rehearsal", "policy": "manual"}).context["adminform"]
    assert (form.form["recipe"].value(), form.form["trains_on"].value()) == ("rehearsal", False)
    assert Run.objects.count() == 1


def test_the_configured_recipe_may_be_a_file(admin, ready, settings, tmp_path):
    settings.DISTILLATION_RECIPE = str(tmp_path / "own.json")
    (tmp_path / "own.json").write_text('{"recipe": "starter-2step", "gate": {"slower": 2}}')
    assert start(admin, recipe=settings.DISTILLATION_RECIPE).status_code == 200
    assert Run.objects.get().recipe["gate"] == {"slower": 2}


def test_an_uploaded_recipe_is_used(admin, ready):
    start(
        admin,
        changes=SimpleUploadedFile("a.json", b'{"recipe": "starter-2step", "again": {"steps": 9}}'),
    )
    assert Run.objects.get().recipe == {"recipe": "starter-2step", "again": {"steps": 9}}


def shown_values(answer) -> dict[str, object]:
    """Return what a browser sends of the form of a page, with Save: without the files."""
    form = answer.context["adminform"].form
    return {name: form[name].value() for name in form.fields if name != "changes"}


def test_a_planned_recipe_that_was_uploaded_is_the_one_that_starts(admin, ready):
    recipe = {"recipe": "starter-2step", "again": {"steps": 9}}
    file = SimpleUploadedFile("a.json", json.dumps(recipe).encode())
    page = start(admin, _plan="1", changes=file)
    assert "A run of the recipe starter-2step" in text(page)
    assert "The uploaded recipe." in text(page)
    values = shown_values(page)
    assert json.loads(values["uploaded"]) == recipe and 'name="uploaded"' in text(page)
    values = shown_values(admin.post(url("add"), values | {"_plan": "1"}))
    admin.post(url("add"), values | {"_save": "Save"})
    assert Run.objects.get().recipe == recipe


def test_a_kept_recipe_is_checked_again_and_is_not_used_instead_of_a_chosen_one(admin, ready):
    for kept in ("", "{", '{"recipe": "my-recipe"}'):
        answer = start(admin, recipe="uploaded", uploaded=kept)
        assert set(answer.context["adminform"].form.errors) == {"recipe"}
    assert not Run.objects.exists()
    start(admin, recipe="starter-1step", uploaded='{"recipe": "starter-2step"}')
    assert Run.objects.get().recipe == {"recipe": "starter-1step"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 90_000,
        b'{"recipe": 7}',
        b'{"recipe": "my-recipe"}',
        b'{"recipe": "starter-1step", "agian": {}}',
        b'{"recipe": "\\u0000"}',
        b" " * 100_001,
    ],
)
def test_an_invalid_uploaded_recipe_is_refused_at_its_field(admin, ready, content):
    answer = start(admin, changes=SimpleUploadedFile("a.json", content))
    assert set(answer.context["adminform"].form.errors) == {"changes"}
    assert not Run.objects.exists()


# --- permissions -----------------------------------------------------------------------------------
def person(*permissions: str) -> Client:
    user = make_user(username="editor", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_a_recipe_that_changes_the_gate_needs_the_permission_to_change_releases(ready):
    editor = person("add_run", "view_run")
    for field in (b'"gate": {"slower": 1000.0}', b'"evaluation": {"seeds_per_variant": 1}'):
        content = b'{"recipe": "starter-1step", %s}' % field
        answer = start(editor, changes=SimpleUploadedFile("a.json", content))
        assert "somebody who may change releases" in text(answer) and not Run.objects.exists()
    editor = person("add_run", "view_run", "change_release")
    start(editor, changes=SimpleUploadedFile("a.json", content))
    assert Run.objects.get().recipe["evaluation"] == {"seeds_per_variant": 1}


@pytest.mark.parametrize(
    ("ceiling", "offered"), [("manual", ["manual"]), ("canary", ["manual", "canary"])]
)
def test_no_policy_above_the_setting_is_offered_or_accepted(
    admin, ready, settings, ceiling, offered
):
    settings.PROMOTION = ceiling
    form = admin.get(url("add")).context["adminform"].form
    assert [choice for choice, _ in form.fields["policy"].choices] == offered
    assert set(start(admin, policy="auto").context["adminform"].form.errors) == {"policy"}
    assert not Run.objects.exists()


def test_a_run_is_canceled_only_after_a_confirmation(admin):
    run = make_run()
    data = {"action": "cancel", "_selected_action": [run.pk]}
    page = admin.post(url("changelist"), data, follow=True)
    assert "cannot be resumed" in text(page) and Run.objects.get().is_open
    assert "cannot be resumed" in text(admin.get(url("change", run.pk)))
    admin.post(url("changelist"), data | {"confirmed": "1"}, follow=True)
    assert not Run.objects.get().is_open


# --- deciding -------------------------------------------------------------------------------------
@pytest.fixture
def waiting(settings, monkeypatch) -> Run:
    """A run whose gate could not judge: its release waits beside an active one. They have no files."""
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)
    make_release(name="active")
    check = {"name": "quality", "passed": False, "limit": 0.0, "found": None, "low": None,
             "detail": "No judge rated the pictures.", "decided": False}  # fmt: skip
    return make_run(
        name="made", status="succeeded", outcome="candidate", finished_at=timezone.now(),
        release=make_release(name="made"), gate={"passed": False, "checks": [check]},
    )  # fmt: skip


def decide(client: Client, run: Run, name: str, **given: object) -> str:
    return text(client.post(url("decide", run.pk, name), given, follow=True))


def test_the_page_shows_which_release_serves_each_prompt_before_and_after(admin, waiting):
    active = Release.objects.get(name="active")
    for slug, before, after in (("red-vase", 1, 4), ("blue-bowl", 1, 1)):
        make_variant(slug=slug)
        make_quality(active, slug.replace("-", " "), before)
        make_quality(waiting.release, slug.replace("-", " "), after)
    prompts = prompt_changes.of(waiting.release, is_specialist=False)
    Run.objects.filter(pk=waiting.pk).update(gate=waiting.gate | {"prompts": prompts})
    page = " ".join(text(admin.get(url("change", waiting.pk))).split())
    for part in (
        "1 would improve, most of all red vase: active (1 of 4) → made (4 of 4); 0 would get worse.",
        "1 prompt is hard: no student makes 50% of the pictures right.",
        '<th scope="row">red vase</th> <td>active</td> <td class="rt-nowrap">1 of 4</td> '
        '<td>made</td> <td class="rt-nowrap">4 of 4</td>',
        '<th scope="row">blue bowl</th><td>active 1 of 4, made 1 of 4</td>',
    ):
        assert part in page, part


def test_the_page_explains_the_gates_result_and_offers_decisions(admin, waiting):
    page = text(admin.get(url("change", waiting.pk)))
    for part in ("waits for your decision", "No judge measured whether the pictures show what they should",
                 "Compare it blindly", "second=made",
                 "Serve anyway", "Canary", "Continue training", "Discard"):  # fmt: skip
        assert part in page, part


def test_the_page_links_all_new_prompts_beside_the_teacher(admin, waiting):
    active = Release.objects.get(name="active")
    Run.objects.update(replaces=active)
    cover(active, {"red-vase": ""})
    cover(waiting.release, {"red-vase": "", "blue-bowl": "", "green-mug": ""})
    for slug in ("red-vase", "blue-bowl", "not-covered"):
        make_variant(slug=slug)
    assert "The new prompt beside the teacher" in text(admin.get(url("change", waiting.pk)))
    make_variant(slug="green-mug")
    page = html.unescape(text(admin.get(url("change", waiting.pk))))
    query = f"first={waiting.teacher.name}&second=made&new=active"
    link = f"{reverse('admin:generation_release_compare')}?{query}"
    assert "The 2 new prompts beside the teacher" in page and f'href="{link}"' in page
    cover(active, dict.fromkeys(("red-vase", "blue-bowl", "green-mug"), ""))
    assert "beside the teacher" not in text(admin.get(url("change", waiting.pk)))


def test_a_release_that_did_not_pass_is_served_only_with_a_reason(admin, waiting):
    assert "Give a reason to serve it" in decide(admin, waiting, "serve")
    assert "made is active." in decide(admin, waiting, "serve", reason="They are right.")
    assert Release.objects.get(name="made").status == "active"
    entry = AuditEntry.objects.get(action="release_activated")
    assert (entry.actor, entry.via, entry.detail["reason"]) == ("admin", "admin", "They are right.")
    page = text(admin.get(url("change", waiting.pk)))
    assert "A person served it: They are right." in page and "Serve anyway" not in page


def test_a_person_can_begin_a_canary_discard_and_continue_training(admin, waiting):
    assert "give a whole number" in decide(admin, waiting, "canary", percent="½")
    assert "made serves 5 % of the jobs" in decide(admin, waiting, "canary", percent="5")
    releases.end_canary(waiting.release)
    assert "was discarded" in decide(admin, waiting, "discard")
    page = decide(admin, waiting, "train-on", steps="20")
    following = Run.objects.get(begins_with=waiting.release)
    assert f"{following.name} continues the training of made" in page
    assert following.recipe["again"] == {"steps": 20} and following.created_by.username == "admin"


def test_a_person_can_measure_again_what_seeds_would_decide(admin, waiting):
    check = {"name": "worst_prompts to teacher", "passed": False, "limit": -0.1, "found": -0.068,
             "low": -0.137, "high": -0.005, "detail": "About 19 would decide it.", "decided": False,
             "seeds_to_decide": 19}  # fmt: skip
    Run.objects.update(gate={"passed": False, "checks": [check], "blind_to": {"detector": "Blur."}})
    page = text(admin.get(url("change", waiting.pk)))
    for part in ("Measure again", 'value="19"', "differs by -0.07 from the teacher", "Blur."):
        assert part in page, part
    page = decide(admin, waiting, "measure", seeds="19")
    following = Run.objects.exclude(pk=waiting.pk).get()
    assert f"{following.name} measures made again." in page
    assert following.recipe["evaluation"] == {"fresh_seeds": 19}


def test_decisions_need_the_permission_and_a_post(waiting):
    viewer = person("view_run", "add_run")
    page = text(viewer.get(url("change", waiting.pk)))
    assert "Continue training" in page and "Serve anyway" not in page
    for name in ("serve", "canary", "measure", "discard"):
        answer = viewer.post(url("decide", waiting.pk, name), {"reason": "x", "percent": "5"})
        assert answer.status_code == 403
    assert viewer.get(url("decide", waiting.pk, "train-on")).status_code == 405
    assert viewer.post(url("decide", waiting.pk, "nothing")).status_code == 404
    assert Release.objects.get(name="made").status == "candidate"


# --- watching -------------------------------------------------------------------------------------
@pytest.fixture
def running(settings) -> Run:
    """A run in its second slice, with a curve and a finished evaluation."""
    run = make_run(folders={"joint": "joint-1", "evaluation": "evaluation-1"}, variants=7)
    runs.renew(runs.claim("worker-1")[1], stage="joint", percent=42.0)
    root = Path(settings.DATA_DIR) / "distillation"
    for name in run.folders.values():
        (root / name).mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 1001)]
    (root / "joint-1" / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 10']))
    (root / "evaluation-1" / "report.html").write_text("<h1>Report</h1>")
    (root / "evaluation-1" / "sheet.webp").write_bytes(b"RIFF")
    return Run.objects.get(pk=run.pk)


def test_the_page_polls_progress_and_the_curve_of_losses(admin, running):
    now = admin.get(url("now", running.pk)).json()
    assert (now["status"], now["stage"], now["percent"], now["slice"]) == ("running", "joint", 42.0, 2)  # fmt: skip
    (curve,) = now["curves"]
    assert curve["stage"] == "joint" and curve["steps"][-1] == 1000
    assert len(curve["values"]) == 200 and curve["values"] == sorted(curve["values"], reverse=True)
    page = text(admin.get(url("change", running.pk)))
    for part in ("run-progress", "7 prompt variants", "#2", "over", url("now", running.pk)):
        assert part in page


def test_the_page_of_a_run_that_pauses_shows_why_and_until_when(admin):
    run = make_run()
    runs.give_back(runs.claim("worker-1")[1], "failed", detail="CUDA out of memory.")
    shown = "CUDA out of memory. The next slice begins"
    assert shown in text(admin.get(url("change", run.pk)))
    runs.resume(runs.pause(run))
    assert shown not in text(admin.get(url("change", run.pk)))


def test_the_report_is_shown_and_may_run_no_scripts(admin, running):
    answer = admin.get(url("file", running.pk, "report.html"))
    assert text(answer) == "<h1>Report</h1>"
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    page = text(admin.get(url("change", running.pk)))
    for name in ("report.html", "sheet.webp"):
        assert url("file", running.pk, name) in page
    assert admin.get(url("file", running.pk, "compared.webp")).status_code == 404
    assert admin.get(url("file", running.pk, "..")).status_code == 404


def test_the_kept_report_is_shown_after_its_stage_is_removed(admin, running):
    write_stage(
        f"reports/{running.name}", {"evaluation.json": figures(), "report.html": "<h1>Kept"}
    )
    assert text(admin.get(url("file", running.pk, "report.html"))) == "<h1>Kept"
    shutil.rmtree(folders.root() / "evaluation-1")
    assert text(admin.get(url("file", running.pk, "report.html"))) == "<h1>Kept"
    assert admin.get(url("file", running.pk, "sheet.webp")).status_code == 404


def test_the_latest_sheet_of_samples_is_shown_and_sent_again_when_it_has_changed(admin, running):
    assert admin.get(url("now", running.pk)).json()["samples"] is None
    assert admin.get(url("samples", running.pk)).status_code == 404
    facts = {"step": 40, "steps": 90, "texts": ["a red vase"]}
    write_stage("joint-1", {"samples.json": facts, "samples.webp": b"RIFF1"})
    found = admin.get(url("now", running.pk)).json()["samples"]
    assert (found["stage"], found["step"], found["steps"]) == ("joint", 40, 90)
    assert found["url"] == url("samples", running.pk) and found["texts"] == ["a red vase"]
    answer = admin.get(found["url"])
    assert answer.content == b"RIFF1" and answer["Content-Type"] == "image/webp"
    assert "no-cache" in answer["Cache-Control"]
    assert admin.get(found["url"], headers={"If-None-Match": answer["ETag"]}).status_code == 304
    write_stage("joint-1", {"samples.webp": b"RIFF22"})
    again = admin.get(found["url"], headers={"If-None-Match": answer["ETag"]})
    assert again.content == b"RIFF22"
    assert admin.get(url("now", running.pk)).json()["samples"]["version"] != found["version"]
    assert "run-samples" in text(admin.get(url("change", running.pk)))


def test_an_incomplete_sheet_of_samples_is_not_shown(admin, running):
    write_stage("joint-1", {"samples.webp": b"RIFF1"})
    assert admin.get(url("now", running.pk)).json()["samples"] is None
    write_stage("joint-1", {"samples.json": '{"step": 1'})
    assert admin.get(url("now", running.pk)).json()["samples"] is None


def test_the_gates_result_is_on_the_page(admin, running):
    check = {"name": "diversity to active", "passed": False, "limit": 0.9, "found": 0.71,
             "low": 0.68, "detail": "It collapsed."}  # fmt: skip
    hold = runs.Hold(running.pk, running.token)
    runs.finish(hold, gate={"passed": False, "checks": [check]}, outcome="rejected")
    page = text(admin.get(url("change", running.pk)))
    for part in ("diversity to active", "0.710", "0.680", "It collapsed.", "rejected",
                 "It did not reach a limit of the gate"):  # fmt: skip
        assert part in page
    assert "run-progress" not in page


def test_pages_of_runs_need_the_view_permission(running):
    client = Client()
    user = make_user(username="editor", is_staff=True)
    client.force_login(user)
    for page, *args in (("now",), ("samples",), ("file", "report.html"), ("change",)):
        assert client.get(url(page, running.pk, *args)).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_run"))
    assert client.get(url("now", running.pk)).status_code == 200
    assert client.post(url("do", running.pk, "cancel")).status_code == 403
    assert Run.objects.get(pk=running.pk).status == "running"


# --- steering -------------------------------------------------------------------------------------
def test_the_buttons_pause_resume_and_cancel(admin, running):
    for name, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled")):
        answer = admin.post(url("do", running.pk, name), follow=True)
        assert f"{running.name} is {status}." in text(answer)
    answer = admin.post(url("do", running.pk, "pause"), follow=True)
    assert f"The run {running.name} is canceled." in text(answer)
    entries = AuditEntry.objects.filter(subject=running.name, actor="admin").order_by("pk")
    done = list(entries.values_list("action", flat=True))
    assert done == ["run_paused", "run_resumed", "run_canceled"]


def test_a_run_that_ended_without_an_outcome_has_none(admin):
    ended = {"finished_at": timezone.now()}
    for status, more, shown in (
        ("failed", ended, "–"), ("canceled", ended, "–"), ("queued", {}, "pending"),
        ("succeeded", ended | {"outcome": "rejected"}, "rejected"),
    ):  # fmt: skip
        Run.objects.all().delete()
        make_run(status=status, **more)
        (row,) = admin.get(url("changelist")).context["results"]
        assert shown in next(cell for cell in row if "field-outcome_badge" in cell)


def test_names_of_rows_keep_their_case(admin, running):
    page = text(admin.get(url("change", running.pk)))
    assert running.name in page and running.name.capitalize() not in page


def test_an_empty_list_explains_where_its_rows_come_from(admin):
    page = text(admin.get(url("changelist", model="decision")))
    assert (
        "consider-redistillation decides at night" in page and "Decisions | Retort</title>" in page
    )
    page = text(admin.get(url("changelist", model="decision"), {"is_start__exact": "1"}))
    assert "Nothing fits the filters" in page and "Reset filters" in page


def test_a_decision_is_made_now_by_the_rules_of_the_schedule(ready):
    editor = person("view_decision", "add_run", "view_run")
    make_embedding(variant=PromptVariant.objects.get())
    make_release(name="student-old", parent="teacher-1", steps=1, covered_variants=["another"])
    assert "Decide now" in text(editor.get(url("changelist", model="decision")))
    page = text(editor.post(url("decide", model="decision"), follow=True))
    assert "No run was started." in page and "a run starts after 600 s without changes" in page
    PromptVariant.objects.update(updated_at=timezone.now() - timedelta(hours=1))
    page = text(editor.post(url("decide", model="decision"), follow=True))
    run = Run.objects.get()
    assert f"The run {run.name} was started. 1 prompt variant is not covered" in page
    assert (run.trigger, run.created_by.username) == ("person", "editor")
    assert Decision.objects.first().run == run
    assert editor.get(url("decide", model="decision")).status_code == 405
    viewer = person("view_decision", "view_run")
    assert "Decide now" not in text(viewer.get(url("changelist", model="decision")))
    assert viewer.post(url("decide", model="decision")).status_code == 403


def test_lists_show_runs_and_decisions(admin, running):
    facts = {"uncovered": ["a", "b"], "settled_seconds": 700.25, "canary": None}
    decision = Decision.objects.create(
        is_start=True, reasons=["2 are new"], facts=facts, run=running
    )
    page = text(admin.get(url("change", decision.pk, model="decision")))
    for part in ("<dt>uncovered</dt><dd>a, b</dd>", "<dd>700.2</dd>", "<dd>none</dd>", "2 are new"):
        assert part in page
    page = text(admin.get(url("changelist")))
    assert running.name in page and "42 %" in page
    page = text(admin.get(url("changelist", model="decision")))
    assert "2 are new" in page and "started" in page


# --- evaluations ----------------------------------------------------------------------------------
@pytest.fixture
def measured() -> Run:
    """A run whose release was measured against teacher and active release, with a kept report."""
    teacher = make_release(name="starter-teacher", kind="teacher")
    active = make_release(name="student-old", parent="starter-teacher")
    release = make_release(name="student-new", parent="starter-teacher", status="candidate")
    release.manifest["evaluation"] = summary()
    release.save()
    check = {"name": "diversity to active", "passed": False, "limit": 0.9, "found": 0.71,
             "low": 0.68, "detail": ""}  # fmt: skip
    run = make_run(
        name="student-new", teacher=teacher, begins_with=active, replaces=active, release=release,
        status="succeeded", outcome="rejected", finished_at=release.registered_at,
        gate={"passed": False, "checks": [check]}, reasons=["2 are new"],
    )  # fmt: skip
    write_stage(
        "reports/student-new",
        {"evaluation.json": figures(), "active.json": figures(new="mug"), "report.html": "<h1>",
         "compared.webp": b"RIFF", "worst.webp": b"RIFF", "clip.png": b"PNG"},
    )  # fmt: skip
    return run


def test_evaluations_are_listed_with_the_releases_compared(admin, measured):
    make_release(name="never-measured", status="retired")
    page = text(admin.get(url("changelist", model="evaluation")))
    for part in ("student-new", "against starter-teacher and student-old", "not passed",
                 "diversity to active", "80.0 % ← 85.0 %"):  # fmt: skip
        assert part in page
    assert "never-measured" not in page


def test_an_evaluation_shows_figures_pictures_plots_and_variants(admin, measured):
    page = text(admin.get(url("change", measured.release_id, model="evaluation")))
    for part in (
        "80.0 (70.0 – 90.0)", "85.0", "50.0 (40.0 – 60.0)",  # candidate, teacher, active
        "0.71", "diversity within a prompt, ÷ teacher", "Full report",
        "teacher, active release, candidate", "Prompts that lost most", "CLIP score of each prompt",
        "3 prompt variants", "mug, new", url("change", measured.pk),
    ):  # fmt: skip
        assert part in page, part
    for name in ("compared.webp", "worst.webp", "clip.png", "report.html"):
        link = url("file", measured.release_id, name, model="evaluation")
        assert link in page and admin.get(link).status_code == 200
    for name in ("sheet.webp", "evaluation.json", ".."):
        assert admin.get(url("file", measured.release_id, name, model="evaluation")).status_code == 404  # fmt: skip


def test_the_variants_of_an_evaluation_are_sorted_as_requested(admin, measured):
    def order(query: str) -> list[str]:
        page = text(admin.get(url("change", measured.release_id, model="evaluation") + query))
        table = page[page.index('id="variants"') :]
        return sorted(("a vase", "a mug", "a bowl"), key=table.index)

    assert order("?order=clip") == ["a mug", "a bowl", "a vase"]
    assert order("?order=distance") == ["a bowl", "a vase", "a mug"]
    assert order("") == order("?order=nonsense&page=7") == ["a mug", "a vase", "a bowl"]


def test_a_release_without_a_report_has_only_the_figures_of_its_manifest(admin, measured):
    shutil.rmtree(folders.report("student-new"))
    Run.objects.all().delete()
    page = text(admin.get(url("change", measured.release_id, model="evaluation")))
    assert "80.0 (70.0 – 90.0)" in page and "There is no report" in page
    assert "inconclusive" in page and "compared.webp" not in page
    assert "student-new" in text(admin.get(url("changelist", model="evaluation")))


def test_a_gate_that_could_not_decide_is_called_inconclusive_and_costs_have_units(admin, measured):
    checks = [
        {"name": "worst_prompts to teacher", "passed": False, "limit": -0.1, "found": -0.068, "low": -0.137,
         "detail": "", "decided": False},
        {"name": "bytes at most", "passed": True, "limit": 12582912, "found": 5242880, "low": None,
         "detail": "", "decided": True},
    ]  # fmt: skip
    Run.objects.update(gate={"passed": False, "checks": checks})
    page = text(admin.get(url("change", measured.release_id, model="evaluation")))
    assert "inconclusive" in page and "<td>-0.137</td>" in page
    # As in `manage.py distill` and in the sentence above the table.
    assert "<td>12.6 MB</td>" in page and "<td>5.24 MB</td>" in page
    assert "<td>12.6 MB</td>" in text(admin.get(url("change", measured.pk)))


def test_an_evaluation_with_a_core_is_listed_with_the_cores_figures(admin, measured):
    """Fresh seeds decide, but only shared ones compare releases over time."""
    share = {"value": 0.911, "low": 0.9, "high": 0.92}
    core = {"seeds_each": 4, "right": {"student": share, "teacher": share}}
    assert "80.0 % ← 85.0 %" in text(admin.get(url("changelist", model="evaluation")))
    measured.release.manifest["evaluation"] = summary(core=core)
    measured.release.save()
    assert "91.1 % ← 91.1 %" in text(admin.get(url("changelist", model="evaluation")))
    page = text(admin.get(url("change", measured.release_id, model="evaluation")))
    assert "seeds that all evaluations share" in page and "91.1 (90.0 – 92.0)" in page


def test_pages_of_evaluations_need_the_view_permission(measured):
    client = Client()
    user = make_user(username="editor", is_staff=True)
    client.force_login(user)
    pages = (
        url("changelist", model="evaluation"),
        url("change", measured.release_id, model="evaluation"),
        url("file", measured.release_id, "report.html", model="evaluation"),
    )
    assert {client.get(page).status_code for page in pages} == {403}
    user.user_permissions.set(Permission.objects.filter(codename="view_evaluation"))
    assert {client.get(page).status_code for page in pages} == {200}


# --- releases -------------------------------------------------------------------------------------
def release_page(admin: Client, name: str) -> str:
    release = Release.objects.get(name=name)
    return text(admin.get(reverse("admin:generation_release_change", args=[release.pk])))


def test_a_release_shows_its_origin_predecessors_and_successors(admin, measured):
    old, new = (Release.objects.get(name=name) for name in ("student-old", "student-new"))
    Release.objects.filter(pk=old.pk).update(status="retired")
    Release.objects.filter(pk=new.pk).update(status="active", replaced=old)
    page = release_page(admin, "student-new")
    for part in ("starter-teacher", "continues from", "2 are new", url("change", measured.pk),
                 url("change", new.pk, model="evaluation"), "not passed: diversity to active"):  # fmt: skip
        assert part in page, part
    chain = page[page.index("rt-chain") :]
    assert chain.index("student-old") < chain.index("student-new")
    page = release_page(admin, "student-old")
    assert "student-new" in page[page.index("rt-chain") :] and "continued as" in page
    page = release_page(admin, "starter-teacher")
    assert "student-new" in page and "rt-chain" not in page


def test_activation_and_rollback_ask_for_a_confirmation(admin, measured):
    old, new = (Release.objects.get(name=name) for name in ("student-old", "student-new"))
    page = release_page(admin, "student-new")
    assert "New jobs will use student-new instead of student-old" in page
    Release.objects.filter(pk=old.pk).update(status="retired")
    Release.objects.filter(pk=new.pk).update(status="active", replaced=old)
    page = release_page(admin, "student-new")
    assert "New jobs will use student-old again" in page
    assert reverse("admin:generation_release_do", args=[new.pk, "rollback"]) in page


def test_a_canary_shows_its_figures_live_until_it_ends(admin, waiting):
    releases.begin_canary(waiting.release, 20)
    page = release_page(admin, "made")
    now = reverse("admin:generation_release_canary_now", args=[waiting.release_id])
    assert "It has served 0 of 200 jobs." in page and f'data-live="{now}"' in page
    answer = admin.get(now).json()
    assert "jobs ended" in answer["html"] and not answer["is_over"]
    releases.end_canary(waiting.release)
    assert admin.get(now).json()["is_over"]
    assert "data-live" not in release_page(admin, "made")
    assert person("view_run").get(now).status_code == 403


# --- the schedule ---------------------------------------------------------------------------------
def test_the_schedule_can_be_changed(admin):
    every = IntervalSchedule.objects.create(every=1, period="hours")
    task = PeriodicTask.objects.create(
        name="consider-redistillation", task="distillation.consider", interval=every
    )
    page = reverse("admin:django_celery_beat_periodictask_change", args=[task.pk])
    assert "distillation.consider" in text(admin.get(page))
    other = IntervalSchedule.objects.create(every=5, period="minutes")
    given = {"name": task.name, "task": task.task, "interval": other.pk, "enabled": "on",
             "args": "[]", "kwargs": "{}", "headers": "{}", "start_time_0": "", "start_time_1": ""}  # fmt: skip
    answer = admin.post(page, given)
    assert answer.status_code == 302, text(answer)[-2000:]
    task.refresh_from_db()
    assert task.interval == other
    for model in ("periodictask", "intervalschedule", "crontabschedule"):
        assert admin.get(reverse(f"admin:django_celery_beat_{model}_changelist")).status_code == 200

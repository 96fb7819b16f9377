"""Admin of designs: request, progress, results, cancel."""

import json

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from distillation.designs import lifecycle as designs
from distillation.designs.candidates import Rows
from distillation.models import Design
from generation.models import AuditEntry
from tests.distillation.design.candidates import PARAMS, candidate
from tests.factories import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db

GIVEN = {"size": "8MB", "time": "12ms@cpu", "quality": "0.97", "wish": "smallest", "hours": "2"}


def person(*permissions: str) -> Client:
    user = make_user(username="person", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def admin() -> Client:
    return person("add_design", "view_design", "change_design")


@pytest.fixture
def ready() -> None:
    make_release(name="teacher-1", kind="teacher", image_sizes=((128, 128),))
    make_variant(tags=["vase"])


def url(page: str, *args: object) -> str:
    return reverse(f"admin:distillation_design_{page}", args=args)


def text(answer) -> str:
    return answer.content.decode()


def test_a_design_requested_in_the_form_is_claimed_by_a_worker(admin, ready, settings):
    assert "12ms@cpu" in text(admin.get(url("add")))
    given = GIVEN | {"tags": "vase, bowl", "recipe": settings.DISTILLATION_RECIPE}
    assert admin.post(url("add"), given).status_code == 302

    design = designs.claim("worker-1", on=["cpu"])
    assert design.limits == {"size": 8_000_000, "time": 0.012, "quality": 0.97}
    assert (design.wish, design.hours, design.tags) == ("smallest", 2, ["bowl", "vase"])
    assert design.created_by.username == "person"
    entry = AuditEntry.objects.get(action="design_created")
    assert (entry.actor, entry.via) == ("person", "admin")


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"size": "8"}, "size", "MB"),
        ({"time": "soon"}, "time", "12ms@cpu"),
        ({"time": "12ms@cuda:7"}, "time", "There are cpu"),
        ({"quality": "97"}, "quality", "0.97"),
        ({"hours": "two"}, "hours", "number"),
        ({"hours": "0"}, "hours", "above 0"),
    ],
)
def test_invalid_values_are_refused_at_their_field(admin, ready, settings, given, field, words):
    form = GIVEN | {"recipe": settings.DISTILLATION_RECIPE} | given
    errors = admin.post(url("add"), form).context["adminform"].form.errors
    assert list(errors) == [field] and words in str(errors[field])
    assert not Design.objects.exists()


def test_the_form_refuses_a_design_without_a_teacher(admin, settings):
    answer = admin.post(url("add"), GIVEN | {"recipe": settings.DISTILLATION_RECIPE})
    assert "teacher" in text(answer) and not Design.objects.exists()


@pytest.fixture
def design(admin, ready, settings) -> Design:
    admin.post(url("add"), GIVEN | {"recipe": settings.DISTILLATION_RECIPE})
    return designs.claim("worker-1", on=["cpu"])


def test_the_page_shows_progress_and_then_the_choice_with_its_files(admin, design):
    rows = Rows(design)
    rows.add(lambda known: PARAMS)
    rows.keep(candidate(0, 0.91))
    designs.note(design, seconds=3600, at_work="Candidate 0: rung 1")
    page = text(admin.get(url("change", design.pk)))
    assert "50.0 %" in page and "Candidate 0: rung 1" in page and "0.910" in page
    now = admin.get(url("now", design.pk)).json()
    assert (now["status"], now["percent"], now["is_open"]) == ("running", 50.0, True)

    folder = designs.output(design)
    (folder / "sheets").mkdir(parents=True)
    for name in ("report.html", "front.csv", "front.png", "recipe.json", "sheets/candidate-0.webp"):
        (folder / name).write_text("content")
    (folder / "design.json").write_text(json.dumps({}))
    designs.finish(design, choice=0, reason="Candidate 0 is the smallest.")
    page = text(admin.get(url("change", design.pk)))
    assert "Candidate 0 is the smallest." in page and url("file", design.pk, "front.png") in page
    for name in ("report.html", "sheets/candidate-0.webp"):
        assert admin.get(url("file", design.pk, name)).content == b"content"
    for name in ("design.json", "../../../secret", "sheets/../report.html"):
        assert admin.get(f"/admin/distillation/design/{design.pk}/files/{name}").status_code == 404
    assert "Candidate 0 is the smallest." in text(admin.get(url("changelist")))


def test_a_design_is_canceled_after_a_confirmation_and_only_with_permission(admin, design):
    cancel = url("do", design.pk, "cancel")
    assert "stopped for good" in text(admin.get(url("change", design.pk)))
    admin.post(cancel)
    assert Design.objects.get().status == "canceled"
    assert AuditEntry.objects.filter(action="design_canceled").count() == 1

    assert Client().post(cancel).status_code == 302
    user = make_user(username="viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_design"))
    viewer = Client()
    viewer.force_login(user)
    assert viewer.post(cancel).status_code == 403
    assert viewer.get(url("add")).status_code == 403

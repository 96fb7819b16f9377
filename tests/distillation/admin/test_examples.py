"""Admin of sources and examples: adding and reading a source, decisions on images, agreement."""

import re
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from distillation.examples import ingestion
from distillation.models import Example, ImageSource
from generation.models import AuditEntry
from tests.distillation.example_factories import (
    make_detector,
    make_example,
    make_source,
    make_verdict,
)
from tests.distillation.pictures import png
from tests.factories import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(page: str, *args: object, model: str = "example") -> str:
    return reverse(f"admin:distillation_{model}_{page}", args=args)


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


# --- sources --------------------------------------------------------------------------------------
def test_an_added_source_waits_for_ingestion(admin):
    variant = make_variant(tags=["vase"])
    given = {
        "name": "field",
        "url": "vases",
        "tags": "red, not-blue",
        "variants": [variant.pk],
        "is_enabled": "on",
    }
    answer = admin.post(url("add", model="imagesource"), given, follow=True)
    assert "will be read when a worker is free" in text(answer)
    source = ImageSource.objects.get()
    assert (source.tags, list(source.variants.all())) == (["red", "not-blue"], [variant])
    assert source.asked_at
    assert "red, not-blue" in text(admin.get(url("change", source.pk, model="imagesource")))


def test_changes_of_a_source_are_in_the_audit_log(admin):
    variant = make_variant(slug="red-vase")
    given = {"name": "field", "url": "vases", "tags": "red", "variants": [variant.pk]}
    admin.post(url("add", model="imagesource"), given | {"is_enabled": "on"})
    source = ImageSource.objects.get()
    page = url("change", source.pk, model="imagesource")
    for _ in range(2):  # the second time nothing changes
        admin.post(page, given | {"tags": "red, not-blue"})
    admin.post(url("delete", source.pk, model="imagesource"), {"post": "yes"})
    rows = AuditEntry.objects.filter(subject="field", actor="admin").order_by("pk")
    assert [(row.action, row.detail) for row in rows] == [
        ("image_source_added", {
            "name": "field", "url": "vases", "tags": "red", "variants": str(variant)}),
        ("image_source_edited", {
            "tags": ["red", "not-blue, red"], "is_enabled": [True, False]}),
        ("image_source_deleted", {}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "/etc"}, "IMAGE_SOURCE_ROOTS"),
        ({"url": "https://me:secret@host/x"}, "credentials"),
        ({"tags": "red, not-red"}, "contradict"),
        ({"tags": "not-vase"}, "contradict"),
        ({"tags": "a|b"}, "not allowed"),
    ],
)
def test_an_invalid_source_is_refused_at_its_field(admin, changes, message):
    variant = make_variant(tags=["vase"])
    given = {
        "name": "field",
        "url": "vases",
        "tags": "",
        "variants": [variant.pk],
        "is_enabled": "on",
    }
    answer = admin.post(url("add", model="imagesource"), given | changes)
    assert message in text(answer) and not ImageSource.objects.exists()


def test_uploaded_pictures_become_a_source_with_examples(admin, settings):
    def upload(page: str, *args: object, **fields: object):
        given = {"name": "shop", "url": "", "tags": "", "is_enabled": "on", **fields}
        return admin.post(url(page, *args, model="imagesource"), given, follow=True)

    def file(seed: int, name: str) -> SimpleUploadedFile:
        return SimpleUploadedFile(name, png(seed, width=160, height=160), "image/png")

    assert "Give a URL, or upload pictures." in text(upload("add"))
    assert "only .png" in text(upload("add", pictures=[file(1, "page.html")]))
    message = text(upload("add", url="vases", pictures=[file(1, "a.png")]))
    assert "leave the URL empty" in message and not ImageSource.objects.exists()

    make_release(name="teacher-1", kind="teacher", image_sizes=((64, 64),))
    # No browser sends the second name.
    upload("add", pictures=[file(1, "red vase.png"), file(2, "../../../red vase.png")])
    source = ImageSource.objects.get()
    assert source.url == "uploads/shop" and source.asked_at
    ingestion.ingest(source)
    assert Example.objects.filter(refusal="").count() == 2
    names = sorted(Example.objects.values_list("location", flat=True))
    assert all(re.fullmatch(r"red-vase-[0-9a-f]{8}\.png", name) for name in names)

    upload("change", source.pk, url=source.url, pictures=[file(3, "third.PNG")])
    ingestion.ingest(source)
    assert Example.objects.filter(refusal="").count() == 3
    folder = Path(settings.DATA_DIR) / "sources" / "uploads" / "shop"
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("is_bulk", [False, True])
def test_uploaded_pictures_are_deleted_with_their_source(
    admin, settings, is_bulk, django_capture_on_commit_callbacks
):
    root = Path(settings.DATA_DIR) / "sources"
    for folder in ("uploads/shop", "uploads/field", "uploads/shared", "vases"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.png").write_bytes(b"")
    gone = [
        make_source(name="shop", url="uploads/shop"),
        make_source(name="elsewhere", url="uploads/../vases"),
        make_source(name="all", url="uploads/"),
        make_source(name="first", url="uploads/shared"),
        make_source(name="web", url="https://example.org/uploads/shop"),
    ]
    make_source(name="field", url="uploads/field")
    make_source(name="second", url=str(root / "uploads" / "shared"))
    with django_capture_on_commit_callbacks(execute=True):
        if is_bulk:
            given = {"action": "delete_selected", "_selected_action": [row.pk for row in gone]}
            admin.post(url("changelist", model="imagesource"), given | {"post": "yes"})
        else:
            for row in gone:
                admin.post(url("delete", row.pk, model="imagesource"), {"post": "yes"})
        assert ImageSource.objects.count() == 2 and (root / "uploads" / "shop").exists()
    kept = {str(path.parent.relative_to(root)) for path in root.rglob("a.png")}
    assert kept == {"uploads/field", "uploads/shared", "vases"}


def test_sources_are_listed_with_their_results_and_ingested_again(admin):
    source = make_source(ingested_at=timezone.now(), error="It is not a folder.")
    make_example(source=source, override="accepted")
    make_example(source=source)
    make_example(source=source, refusal="broken")
    off = make_source(name="off", is_enabled=False)
    page = text(admin.get(url("changelist", model="imagesource")))
    for part in ("It is not a folder.", "disabled", "refusal=none", "standing=accepted"):
        assert part in page
    rows = ImageSource.objects.order_by("pk")
    given = {"action": "ingest", "_selected_action": [row.pk for row in rows]}
    answer = admin.post(url("changelist", model="imagesource"), given, follow=True)
    assert "1 source will be read when a worker is free." in text(answer)
    assert [bool(row.asked_at) for row in rows.all()] == [True, False]
    answer = admin.post(url("do", off.pk, "ingest", model="imagesource"), follow=True)
    assert "disabled" in text(answer)


# --- the grid -------------------------------------------------------------------------------------
def test_the_grid_shows_pictures_with_their_verdicts(admin):
    shown = make_example(content=png(1))
    make_verdict(shown, failing=["vase"])
    make_example(refusal="too_small", refusal_detail="It has 3 × 3 pixels.")
    make_example(content=png(2))
    page = text(admin.get(url("changelist")))
    for part in (
        url("picture", shown.pk, "thumbnail"),
        "rejected",
        "vase",
        "too_small",
        "not judged",
    ):
        assert part in page
    assert f'alt="Example {shown.pk}: {shown.location}"' in page


@pytest.fixture
def judged() -> dict[str, Example]:
    """An example for every filter."""
    detector, other = make_detector(), make_detector(name="other")
    variant = make_variant(slug="red-vase")
    found = {
        "good": make_example(),
        "bad": make_example(source=make_source(name="vases", variants=[variant])),
        "unjudged": make_example(),
        "broken": make_example(refusal="broken"),
        "saved": make_example(override="accepted"),
    }
    make_verdict(found["good"], detector=detector)
    make_verdict(found["bad"], detector=detector, failing=["vase", "bowl"])
    make_verdict(found["saved"], detector=detector, failing=["bowl"])
    make_verdict(found["unjudged"], detector=other, failing=["vase"])
    return found


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("verdict=accepted", {"good"}),
        ("verdict=rejected", {"bad", "saved"}),
        ("verdict=none", {"unjudged"}),
        ("bit=vase", {"bad"}),
        ("bit=bowl", {"bad", "saved"}),
        ("override=accepted", {"saved"}),
        ("override=any", {"saved"}),
        ("override=against", {"saved"}),
        ("override=none", {"good", "bad", "unjudged", "broken"}),
        ("variant=red-vase", {"bad"}),
        ("refusal=any", {"broken"}),
        ("refusal=broken", {"broken"}),
        ("refusal=none", {"good", "bad", "unjudged", "saved"}),
        ("standing=accepted", {"good", "saved"}),
        ("standing=not", {"bad", "unjudged", "broken"}),
        ("source__id__exact={vases}", {"bad"}),
        ("verdict=rejected&bit=bowl&override=none", {"bad"}),
    ],
)
def test_the_grid_is_filtered(admin, judged, query, names):
    query = query.format(vases=ImageSource.objects.get(name="vases").pk)
    answer = admin.get(f"{url('changelist')}?{query}")
    assert answer.status_code == 200
    assert {row.pk for row in answer.context["cl"].result_list} == {
        judged[name].pk for name in names
    }


def test_the_number_of_queries_does_not_grow_with_the_pictures(
    admin, django_assert_max_num_queries
):
    for _ in range(30):
        make_verdict(make_example())
    with django_assert_max_num_queries(20):
        admin.get(url("changelist"))


# --- decisions ------------------------------------------------------------------------------------
def test_many_pictures_are_decided_at_once_and_the_user_is_recorded(admin):
    rows = [make_example(), make_example(), make_example(refusal="broken")]
    for action, override, message in (
        ("accept", "accepted", "2 images are accepted."),
        ("accept", "accepted", "0 images are accepted."),
        ("reject", "rejected", "2 images are rejected."),
        ("clear", "", "2 images are left to the detector."),
    ):
        given = {"action": action, "_selected_action": [row.pk for row in rows]}
        assert message in text(admin.post(url("changelist"), given, follow=True))
        found = Example.objects.filter(refusal="")
        assert {row.override for row in found} == {override}
        assert all(row.overridden_by.username == "admin" and row.overridden_at for row in found)
    assert Example.objects.get(refusal="broken").overridden_at is None
    assert LogEntry.objects.count() == 6


def test_the_page_of_a_picture_shows_bars_and_every_verdict_and_has_the_buttons(admin):
    example = make_example(
        content=png(1), source=make_source(variants=[make_variant(text="a red vase")])
    )
    make_verdict(example, detector=make_detector(name="old", status="retired"), failing=["bowl"])
    make_verdict(
        example, failing=["vase"], present=["vase"], probabilities={"vase": 0.125, "bowl": 0.5}
    )
    page = text(admin.get(url("change", example.pk)))
    for part in (
        "old",
        "detector-1",
        "12.5 %",
        "fails, required",
        "a red vase",
        'value="12.5"',
    ):
        assert part in page
    assert url("do", example.pk, "accept") in page and url("do", example.pk, "clear") not in page
    admin.post(url("do", example.pk, "reject"))
    page = text(admin.get(url("change", example.pk)))
    assert url("do", example.pk, "clear") in page and "by admin" in page


def test_the_file_of_a_picture_is_served_to_staff_and_a_refused_file_has_none(admin):
    example, refused = make_example(content=png(1)), make_example(refusal="broken")
    answer = admin.get(url("picture", example.pk, "thumbnail"))
    assert answer.content == png(1) and answer["Content-Type"] == "image/png"
    assert "immutable" in answer["Cache-Control"]
    headers = {"If-None-Match": answer["ETag"]}
    assert admin.get(url("picture", example.pk, "thumbnail"), headers=headers).status_code == 304
    assert admin.get(url("picture", example.pk, "huge")).status_code == 404
    assert admin.get(url("picture", refused.pk, "full")).status_code == 404


def test_pages_of_examples_need_the_view_permission_and_decisions_another():
    example = make_example(content=png(1))
    client = Client()
    user = make_user(username="editor", is_staff=True)
    client.force_login(user)
    pages = [
        url("changelist"),
        url("change", example.pk),
        url("picture", example.pk, "full"),
        url("precision"),
    ]
    assert {client.get(page).status_code for page in pages} == {403}
    user.user_permissions.set(Permission.objects.filter(codename="view_example"))
    assert {client.get(page).status_code for page in pages} == {200}
    assert client.post(url("do", example.pk, "accept")).status_code == 403
    given = {"action": "accept", "_selected_action": [example.pk]}
    client.post(url("changelist"), given)
    assert Example.objects.get().override == ""


# --- agreement ------------------------------------------------------------------------------------
def test_precision_is_shown_by_bit_for_the_active_version_and_others(admin):
    detector = make_detector()
    for override in ("rejected", "rejected", "rejected", "accepted"):
        make_verdict(make_example(override=override), detector=detector, failing=["vase"])
    make_verdict(make_example(override="accepted"), detector=detector, present=["bowl"])
    other = make_detector(name="other")
    page = text(admin.get(url("precision")))
    for part in ("detector-1", "75 %", "3 of 4", "100 %", "1 of 1", "?bit=vase", "?detector=other"):
        assert part in page
    assert "no decisions by people" in text(admin.get(url("precision"), {"detector": other.name}))
    assert admin.get(url("precision"), {"detector": "nobody"}).status_code == 404
    assert url("precision") in text(admin.get(url("changelist")))


def test_the_page_of_precision_reports_that_no_detector_is_active(admin):
    assert "No detector is active" in text(admin.get(url("precision")))


def cards(page: str) -> list[tuple[str, str]]:
    """Return pairs of the detector's verdict and the verdict that the card shows."""
    return re.findall(r'title="(\w+) by the detector, score [\d.]+\s*">\s*(\w+)', page)


@pytest.mark.parametrize(("failing", "decided"), [(["vase"], "accepted"), ([], "rejected")])
def test_the_card_shows_a_persons_decision(admin, failing, decided):
    example = make_example(content=png(1), override=decided)
    make_verdict(example, failing=failing)
    other = {"accepted": "rejected", "rejected": "accepted"}[decided]
    for page in (url("changelist"), url("change", example.pk)):
        assert cards(text(admin.get(page))) == [(other, decided)]


def test_the_card_shows_the_detectors_verdict_without_a_decision(admin):
    make_verdict(make_example(content=png(1)), failing=["vase"])
    assert cards(text(admin.get(url("changelist")))) == [("rejected", "rejected")]


# --- review one by one ----------------------------------------------------------------------------
@pytest.fixture
def queue() -> list[Example]:
    """Three undecided pictures: accepted, rejected and not judged by the detector."""
    content = png()
    found = [make_example(content=content, side=16) for _ in range(3)]
    make_verdict(found[0])
    make_verdict(found[1], failing=["vase"])
    make_example(content=content, side=16, override="accepted")
    make_example(refusal="too_small")
    return found


REVIEW = "/admin/distillation/example/review/"


def shown(answer) -> int | None:
    example = answer.context["example"]
    return example and example.pk


def decide(client: Client, shown: Example, decision: str, **given: object):
    data = {"of": "undecided", "example": shown.pk, "decision": decision} | given
    return client.post(REVIEW, data, follow=True)


def test_pictures_are_reviewed_one_after_the_other_and_the_last_decision_is_undone(admin, queue):
    one, two, three = queue
    answer = admin.get(REVIEW)
    assert shown(answer) == one.pk and "3 left of this set" in text(answer)
    answer = decide(admin, one, "accept")
    assert shown(answer) == two.pk and "fails: vase" in text(answer)
    answer = decide(admin, two, "reject")
    assert shown(answer) == three.pk and answer.context["undo"] == two
    one.refresh_from_db()
    two.refresh_from_db()
    assert (one.override, two.override) == ("accepted", "rejected")
    assert LogEntry.objects.filter(object_id=two.pk).count() == 1

    answer = decide(admin, two, answer.context["undo_name"], undoes="1")
    two.refresh_from_db()
    assert (two.override, shown(answer), answer.context["undo"]) == ("", two.pk, None)


def test_the_review_links_neighbours_and_filters_by_verdict(admin, queue):
    one, two, three = queue
    answer = admin.get(REVIEW, {"at": two.pk})
    assert answer.context["previous"] == f"?of=undecided&at={one.pk}"
    assert answer.context["following"] == f"?of=undecided&at={three.pk}"
    assert shown(admin.get(REVIEW, {"of": "rejected"})) == two.pk
    assert shown(admin.get(REVIEW, {"of": "accepted", "at": "x"})) == one.pk
    assert shown(admin.get(REVIEW, {"of": "nonsense", "at": 10**9})) == one.pk


def test_an_empty_review_says_that_nothing_is_left(admin):
    assert "No example is left" in text(admin.get(REVIEW))


def test_decisions_in_the_review_need_the_permission_to_decide(queue):
    user = make_user(username="editor", is_staff=True)
    client = Client()
    client.force_login(user)
    assert client.get(REVIEW).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_example"))
    assert "Accept" not in text(client.get(REVIEW))
    assert decide(client, queue[0], "accept").status_code == 403
    assert not Example.objects.filter(pk=queue[0].pk).exclude(override="").exists()


def test_an_invalid_decision_is_refused(admin, queue):
    assert decide(admin, queue[0], "maybe").status_code == 400
    assert decide(admin, queue[0], "accept", of="all").status_code == 400
    assert decide(admin, queue[0], "accept", example="x").status_code == 404

"""GET /v1/variants: visible prompt variants, pagination and search."""

import base64

import pytest
from django.test import Client

from generation.engine.proportions import Share
from generation.images import storage
from generation.models import AuditEntry, PromptVariant
from tests.client import API, problem
from tests.factories import (
    make_image,
    make_job,
    make_quality,
    make_release,
    make_user,
    make_variant,
    make_variant_image,
)

pytestmark = pytest.mark.django_db


def slugs(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["slug"] for row in answer.json()["results"]]


def test_only_active_variants_are_shown():
    make_variant(slug="red-vase", tags=["vase"])
    make_variant(slug="draft-vase", status="draft")
    make_variant(slug="old-vase", status="archived")
    api = API()

    (row,) = api.get("/v1/variants").json()["results"]

    assert (row["slug"], row["text"], row["tags"]) == ("red-vase", "red vase", ["vase"])
    assert api.get(row["urls"]["self"]).json() == row
    problem(api.get("/v1/variants/draft-vase"), 404, "not_found")
    problem(api.get("/v1/variants/never-was"), 404, "not_found")


def test_a_key_that_may_not_read_images_gets_no_example_images():
    job = make_job(status="succeeded")
    make_image(job=job)
    catalogue_only = API(scopes=["variants:read", "variants:write"])

    (row,) = catalogue_only.get("/v1/variants").json()["results"]

    address = f"/v1/variants/{job.variant.slug}"
    answers = [row, catalogue_only.get(address).json(), catalogue_only.patch(address).json()]
    assert [answer["example"] for answer in answers] == [None, None, None]
    assert API().get(address).json()["example"]


def test_pages_visit_every_variant_once_in_both_directions():
    names = [f"variant-{number:02}" for number in range(7)]
    for name in names:
        make_variant(slug=name)
    api = API()

    seen: list[str] = []
    url, pages = "/v1/variants?limit=3", []
    while url:
        page = api.get(url)
        pages.append(page.json())
        seen += slugs(page)
        url = page.json()["next"]

    assert seen == names
    assert [len(page["results"]) for page in pages] == [3, 3, 1]
    assert pages[0]["previous"] is None
    assert slugs(api.get(pages[2]["previous"])) == names[3:6]


def test_search_covers_text_and_slug_and_tags_match_exactly():
    make_variant(slug="one", text="a red glass vase", tags=["glass"])
    make_variant(slug="glass-two", text="a blue cup", tags=["glassware"])
    make_variant(slug="three", text="a green bowl")
    api = API()

    assert slugs(api.get("/v1/variants", {"q": "GLASS"})) == ["glass-two", "one"]
    assert slugs(api.get("/v1/variants", {"tag": "glass"})) == ["one"]
    assert slugs(api.get("/v1/variants", {"q": "glass", "tag": "glassware"})) == ["glass-two"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"colour": "red"}, "colour"),
        ({"limit": "0"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": 101}, "limit"),
    ],
)
def test_an_invalid_query_parameter_is_refused_by_name(query: dict, parameter: str):
    body = problem(API().get("/v1/variants", query), 400, "invalid_request")

    assert [error["parameter"] for error in body["errors"]] == [parameter]


@pytest.mark.parametrize(
    "text", [b"", b"p=", b"p=no-date", b"o=many", b"p=%00", b"p=2026-01-01\xff"]
)
@pytest.mark.parametrize("path", ["/v1/variants", "/v1/jobs"])
def test_an_invented_cursor_is_refused(path: str, text: bytes):
    for cursor in ("!!!", base64.b64encode(text).decode() or "="):
        answer = API().get(path, {"cursor": cursor})

        # A slug may be any text; a time may not.
        if path == "/v1/variants" and text in (b"p=", b"p=no-date") and cursor != "!!!":
            assert answer.status_code == 200
        else:
            problem(answer, 400, "invalid_request")


def test_a_variant_has_its_serving_release_and_the_owners_newest_image(settings):
    api = API()
    for slug in ("covered", "new"):
        make_variant(slug=slug)
    make_release(name="student", covered_variants=["covered"])
    make_release(name="teacher", kind="teacher")
    covered = PromptVariant.objects.get(slug="covered")
    make_image(job=make_job(owner=api.owner, variant=covered, status="succeeded"))
    newest = make_image(job=make_job(owner=api.owner, variant=covered, status="succeeded"))
    new = PromptVariant.objects.get(slug="new")
    make_image(job=make_job(owner=make_user(username="else"), variant=new, status="succeeded"))

    one, other = api.get("/v1/variants").json()["results"]

    assert (one["is_covered"], one["served_by"]) == (True, "student")
    assert one["example"]["image"] == str(newest.pk)
    assert one["example"]["thumbnail"].startswith(f"http://testserver/v1/images/{newest.pk}/thumb")
    assert (other["is_covered"], other["served_by"], other["example"]) == (False, "teacher", None)
    assert api.get("/v1/variants/covered").json() == one
    assert slugs(api.get("/v1/variants", {"covered": "false"})) == ["new"]
    assert slugs(api.get("/v1/variants", {"covered": "true"})) == ["covered"]
    settings.UNCOVERED = "refuse"
    assert api.get("/v1/variants/new").json()["served_by"] is None


def test_without_an_own_image_the_example_is_the_variants_image_for_everybody():
    vase, own = make_variant(slug="a-vase"), make_variant(slug="own")
    make_release(covered_variants=["a-vase", "own"])
    shared = make_variant_image(variant=vase)
    make_variant_image(variant=own)
    api = API()
    mine = make_image(job=make_job(owner=api.owner, variant=own, status="succeeded"))
    make_image(job=make_job(owner=make_user(username="else"), variant=vase, status="succeeded"))

    first, second = (row["example"] for row in listed(api))

    assert first["image"] is None and second["image"] == str(mine.pk)
    catalogue_only = API(scopes=["variants:read"])
    assert [row["example"]["image"] for row in listed(catalogue_only)] == [None, None]
    file = Client().get(first["thumbnail"])
    assert (file.status_code, file["Content-Type"]) == (200, "image/webp")
    assert file["ETag"] == f'"{shared.sha256}"' and "immutable" in file["Cache-Control"]
    again = Client().get(first["thumbnail"], headers={"If-None-Match": file["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    problem(Client().get(first["thumbnail"].partition("?")[0]), 400, "invalid_request")
    other = first["thumbnail"].replace(str(shared.pk), str(mine.pk))
    problem(Client().get(other), 403, "link_invalid")

    storage.remove(shared.file)
    problem(Client().get(first["thumbnail"]), 410, "image_gone")
    assert listed(api)[0]["example"] is None


def test_more_variants_cost_no_more_queries(django_assert_max_num_queries):
    api = API()
    make_release(covered_variants=["v0"])
    for number in range(12):
        variant = make_variant(slug=f"v{number}")
        make_image(job=make_job(owner=api.owner, variant=variant, status="succeeded"))
        make_variant_image(variant=variant)
    # Key and its last use, releases, variants, their judged pictures, images, images of variants.
    with django_assert_max_num_queries(7):
        assert len(slugs(api.get("/v1/variants"))) == 12


# --- changes --------------------------------------------------------------------------------------
def test_a_variant_is_added_and_is_in_the_audit_log():
    api = API()
    answer = api.post("/v1/variants", {"text": " A  red vase", "tags": ["glass", "glass", "red"]})

    assert answer.status_code == 201, answer.content
    shown = answer.json()
    assert (shown["slug"], shown["text"], shown["tags"]) == (
        "a-red-vase",
        "A red vase",
        ["glass", "red"],
    )
    assert (shown["status"], shown["revision"], shown["served_by"]) == ("active", 1, None)
    assert answer["Location"] == shown["urls"]["self"]
    assert api.get("/v1/variants/a-red-vase").json() == shown
    entry = AuditEntry.objects.get(action="variant_added")
    assert (entry.subject, entry.via, entry.actor) == ("a-red-vase", "api", api.owner.username)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"text": "a mug", "colour": "red"}, "invalid_request"),
        ({"text": "a mug", "slug": "a mug"}, "invalid_request"),
        ({"text": "word " * 13}, "prompt_invalid"),
        ({"text": "A  RED vase"}, "prompt_invalid"),
        ({"text": "a mug", "slug": "vase"}, "prompt_invalid"),
        ({"text": "a mug", "tags": ["glass", "not-glass"]}, "prompt_invalid"),
    ],
)
def test_a_variant_that_the_catalogue_refuses_is_not_added(body: dict, code: str):
    make_variant(slug="vase", text="a red vase")
    problem(API().post("/v1/variants", body), 400 if code == "invalid_request" else 422, code)
    assert PromptVariant.objects.count() == 1


def test_a_text_with_images_is_changed_only_by_a_new_revision():
    api = API()
    vase = make_variant(slug="vase", text="a red vase", tags=["red"])
    make_image(job=make_job(variant=vase, status="succeeded"))

    body = problem(api.patch("/v1/variants/vase", {"text": "a blue vase"}), 422, "prompt_invalid")
    assert "new revision" in body["detail"]
    answer = api.patch("/v1/variants/vase", {"text": "a blue vase", "new_revision": True})

    assert answer.status_code == 200, answer.content
    assert (answer.json()["text"], answer.json()["revision"]) == ("a blue vase", 2)
    assert answer.json()["tags"] == ["red"]
    entry = AuditEntry.objects.get(action="variant_edited")
    assert entry.detail == {"text": ["a red vase", "a blue vase"]}


def test_a_variant_is_archived_and_activated_again():
    api = API()
    make_variant(slug="vase")
    assert api.patch("/v1/variants/vase", {"status": "archived"}).json()["status"] == "archived"
    problem(api.get("/v1/variants/vase"), 404, "not_found")
    assert api.patch("/v1/variants/vase", {"status": "active", "tags": []}).status_code == 200
    assert slugs(api.get("/v1/variants")) == ["vase"]
    problem(api.patch("/v1/variants/never-was", {"tags": []}), 404, "not_found")


def test_the_quality_is_that_of_the_serving_release(settings):
    settings.QUALITY_FLOOR = 0.5
    for slug in ("one", "two", "new"):
        make_variant(slug=slug)
    student = make_release(name="student", covered_variants=["one", "two"])
    teacher = make_release(name="teacher", kind="teacher")
    for text, right in (("one", 3), ("two", 1)):
        make_quality(student, text, right)
    make_quality(teacher, "two", 4)

    rows = {row["slug"]: row for row in listed(API())}

    found = {slug: (row["served_by"], row["quality"]) for slug, row in rows.items()}
    assert found == {"one": ("student", 0.75), "two": ("teacher", 1.0), "new": ("teacher", None)}
    assert rows["one"]["quality_interval"] == list(Share(3, 4).interval)
    assert rows["two"]["quality_interval"] == list(Share(4, 4).interval)
    assert rows["new"]["quality_interval"] is None


def test_a_variant_has_the_interval_of_its_quality_and_its_own_floor():
    make_variant(slug="one", quality_floor=0.25)
    make_quality(make_release(covered_variants=["one"]), "one", 1, 8)

    row = API().get("/v1/variants/one").json()

    assert (row["quality"], row["quality_floor"]) == (0.125, 0.25)
    assert row["quality_interval"] == list(Share(1, 8).interval)


def test_fewer_than_four_judged_pictures_have_no_interval():
    make_variant(slug="one")
    make_quality(make_release(covered_variants=["one"]), "one", 1, 3)

    row = API().get("/v1/variants/one").json()

    assert (row["quality"], row["quality_interval"]) == (None, None)


def listed(api: API) -> list[dict]:
    return api.get("/v1/variants").json()["results"]

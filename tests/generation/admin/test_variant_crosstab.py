"""Page of the prompt catalogue by tags: counts, links to lists and to the form of a new variant, permissions."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from generation.models import PromptVariant
from tests.factories import (
    cover,
    make_embedding,
    make_quality,
    make_release,
    make_user,
    make_variant,
)

pytestmark = pytest.mark.django_db
LIST = "/admin/generation/promptvariant/"
PAGE = f"{LIST}by-tags/"
CATALOGUE = {
    "good": "vase red glass",
    "weak": "vase red clay",
    "new": "vase blue glass",
    "plain": "bowl",
}


def kinds() -> tuple[tuple[str, ...], ...]:
    return ("vase", "bowl", "mug"), ("red", "blue"), ("glass", "clay")


@pytest.fixture(autouse=True)
def catalogue(settings) -> None:
    """Three vases and a bowl. A student covers two vases, and makes one of them badly; a teacher serves the rest."""
    settings.TAG_KINDS = f"{__name__}.kinds"
    student = make_release(name="s")
    make_release(name="t", kind="teacher")
    for slug, tags in CATALOGUE.items():
        make_embedding(variant=make_variant(slug=slug, tags=tags.split()))
    make_variant(slug="past", tags=["vase", "red", "glass"], status="archived")
    cover(student, {"good": "good", "weak": "weak"})
    make_quality(student, "good", 4)
    make_quality(student, "weak", 1)


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def rows(answer) -> dict[str, list[str]]:
    """Return the words of each cell by the head of its row, without those for screen readers."""
    html = re.sub(r'<span class="rt-unseen">[^<]*</span>', "", answer.content.decode())
    found = {}
    for row in re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", html, re.DOTALL):
        head, *cells = (re.sub(r"<[^>]*>", " ", part) for part in re.split("<td>", row))
        found[head.strip()] = [" ".join(unescape(cell).split()) for cell in cells]
    return found


def links(answer, place: str) -> list[str]:
    """Return the addresses of the cells' links to this place."""
    found = re.findall(r'class="rt-cell[^"]*" href="([^"]*)"', answer.content.decode())
    return [unescape(link) for link in found if urlsplit(link).path == place]


def listed(client: Client, address: str) -> list[str]:
    answer = client.get(address)
    assert answer.status_code == 200
    return sorted(row.slug for row in answer.context["cl"].result_list)


# --- table ----------------------------------------------------------------------------------------
def test_cells_show_how_many_variants_exist_are_covered_and_are_weak(admin):
    answer = admin.get(PAGE)
    assert rows(answer) == {
        "vase": ["2 ✓ covered ▲ 1 weak", "1 not covered", "3 2 covered ▲ 1 weak"],
        "bowl": ["+ add", "+ add", "1 not covered"],
        "mug": ["+ add", "+ add", "+ add"],
        "all": ["2 ✓ covered ▲ 1 weak", "1 not covered", "4 2 covered ▲ 1 weak"],
    }
    assert "weak: fewer than 50% of the pictures are right" in answer.content.decode()


def test_the_query_chooses_rows_columns_and_filters(admin):
    found = rows(admin.get(PAGE, {"rows": "glass", "columns": "red", "tag": ["", "vase"]}))
    assert found == {
        "glass": ["1 ✓ covered", "1 not covered", "2 1 covered"],
        "clay": ["1 ✓ covered ▲ 1 weak", "+ add", "1 ✓ covered ▲ 1 weak"],
        "all": ["2 ✓ covered ▲ 1 weak", "1 not covered", "3 2 covered ▲ 1 weak"],
    }


@pytest.mark.parametrize(
    "query",
    [
        {"rows": "nonsense", "columns": "vase", "tag": "nothing"},
        {"rows": "vase", "columns": "vase", "tag": "none", "more": "1"},
        {"tag": "vase"},
    ],
)
def test_invalid_and_unknown_parameters_are_ignored(admin, query):
    assert rows(admin.get(PAGE, query)) == rows(admin.get(PAGE))


def test_without_a_student_in_service_coverage_is_left_out(admin):
    from generation.models import Release

    Release.objects.filter(kind="student").update(status="retired")
    answer = admin.get(PAGE)
    assert rows(answer)["vase"] == ["2", "1", "3"]
    assert "No student is in service." in answer.content.decode()


def test_a_catalogue_without_tags_shows_how_to_add_them(admin):
    PromptVariant.objects.update(tags=[])
    assert "No active prompt variant has a tag" in admin.get(PAGE).content.decode()


def test_more_variants_cost_no_more_queries(admin, django_assert_max_num_queries):
    def queries() -> int:
        with django_assert_max_num_queries(10) as found:
            assert admin.get(PAGE).status_code == 200
        return len(found)

    few = queries()
    for number in range(30):
        make_embedding(variant=make_variant(slug=f"v{number}", tags=["mug", "blue", f"t{number}"]))
    assert queries() == few


# --- links ----------------------------------------------------------------------------------------
def test_a_cell_links_to_the_list_of_exactly_its_variants(admin):
    answer = admin.get(PAGE, {"tag": "glass"})
    found = {link: listed(admin, link) for link in links(answer, LIST)}
    assert list(found.values()) == [
        ["good"], ["new"], ["good", "new"],  # vases
        ["good"], ["new"], ["good", "new"],
    ]  # fmt: skip
    assert "vase and red and glass" in admin.get(next(iter(found))).content.decode()


def test_the_link_of_the_total_lists_all_active_variants(admin):
    assert listed(admin, links(admin.get(PAGE), LIST)[-1]) == ["good", "new", "plain", "weak"]


def test_an_empty_cell_opens_the_form_with_its_tags(admin):
    (link,) = (
        link
        for link in links(admin.get(PAGE, {"tag": "clay"}), f"{LIST}add/")
        if "mug" in link and "blue" in link
    )
    assert parse_qs(urlsplit(link).query) == {"tags": ["mug,blue,clay"]}
    form = admin.get(link).context["adminform"].form
    assert form["tags"].value() == "mug,blue,clay" and not form["text"].value()
    data = {"text": "a blue clay mug", "tags": form["tags"].value(), "status": "active"}
    assert admin.post(link, data).status_code == 302
    assert PromptVariant.objects.get(text="a blue clay mug").tags == ["mug", "blue", "clay"]
    assert rows(admin.get(PAGE))["mug"][1] == "1 not covered"


# --- permissions ----------------------------------------------------------------------------------
def person(*codenames: str) -> Client:
    user = make_user(username="person", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_the_page_needs_the_view_permission_and_its_links_to_add_the_add_permission():
    viewer = person("view_promptvariant")
    assert PAGE in viewer.get(LIST).content.decode()
    assert rows(viewer.get(PAGE))["bowl"] == ["none", "none", "1 not covered"]
    editor = person("view_promptvariant", "add_promptvariant")
    assert rows(editor.get(PAGE))["bowl"] == ["+ add", "+ add", "1 not covered"]


def test_the_page_is_forbidden_without_the_view_permission():
    assert person("view_job").get(PAGE).status_code == 403
    assert Client().get(PAGE).status_code == 302

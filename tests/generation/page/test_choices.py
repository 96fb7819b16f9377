"""Search of the catalogue, and the offered releases."""

import hashlib

import pytest

from generation.models import PromptVariant, Release
from generation.page import choices
from generation.page.choices import MAX_RELEASES, MAX_TAGS, MAX_VARIANTS
from tests.factories import (
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_variant_image,
)
from tests.page_client import Person, words

pytestmark = pytest.mark.django_db


@pytest.fixture
def catalogue() -> None:
    for text, tags in (
        ("a red glass vase on a wooden table", ["vase", "red", "glass"]),
        ("a red clay bowl on a wooden table", ["bowl", "red", "clay"]),
        ("a blue glass bowl on a marble slab", ["bowl", "blue", "glass"]),
        ("ein grüner Würfel", ["cube", "green"]),
    ):
        make_variant(text=text, tags=tags)
    make_variant(text="a red glass ring", tags=["red"], status=PromptVariant.Status.ARCHIVED)


def search(text: str, tags, **which) -> choices.Found:
    return choices.search(text, tags, **{"owner": make_user(), **which})


def texts(found: choices.Found) -> list[str]:
    return [variant.text for variant in found.variants]


def test_words_are_found_in_any_order_whatever_their_case(catalogue):
    assert texts(search("GLASS  red", ())) == ["a red glass vase on a wooden table"]
    assert texts(search("würf", ())) == ["ein grüner Würfel"]
    assert texts(search("%", ())) == texts(search("_", ())) == []


def test_without_words_the_list_begins_with_recent_prompts_and_goes_on_mixed():
    for number in range(2 * MAX_VARIANTS):
        make_variant(slug=f"a-vase-{number:03}")
    person = make_user(username="person")
    slugs = PromptVariant.objects.values_list("slug", flat=True)
    mixed = sorted(slugs, key=lambda slug: hashlib.md5(slug.encode()).hexdigest())
    last, first = (PromptVariant.objects.get(slug=slug) for slug in (mixed[-1], mixed[0]))
    make_job(owner=make_user(username="else"), variant=PromptVariant.objects.get(slug=mixed[-2]))

    def listed() -> list[str]:
        found = search("", (), owner=person)
        assert (found.chosen, found.is_wording, found.has_more) == (None, False, True)
        return [variant.slug for variant in found.variants]

    assert listed() == mixed[:MAX_VARIANTS]
    for variant in (first, last, first, last):
        make_job(owner=person, variant=variant)
    assert listed() == [last.slug, *mixed[: MAX_VARIANTS - 1]]
    assert mixed != sorted(mixed)


def test_the_number_of_found_prompts_is_known_and_shown(catalogue):
    for text, tags, numbers in (("", (), (4, 4)), ("red", (), (2, 4)), ("", ["bowl"], (2, 4))):
        found = search(text, tags)
        assert (found.total, found.of) == numbers
    person = Person()
    assert "4 prompts" in words(person.get("/"))
    assert "2 of 4" in words(person.get("/choices", {"text": "red"}, htmx=True))


def test_all_chosen_tags_must_match_and_tags_that_narrow_the_result_are_counted(catalogue):
    found = search("", ["bowl", "glass"])
    assert texts(found) == ["a blue glass bowl on a marble slab"]
    assert [(tag.name, tag.count) for tag in found.tags if tag.is_chosen] == [
        ("bowl", 1),
        ("glass", 1),
    ]
    assert [
        tag.name for tag in found.tags if not tag.is_chosen
    ] == []  # blue would not narrow the result
    counts = {tag.name: tag.count for tag in search("", ()).tags}
    assert (counts["red"], counts["glass"], counts["cube"]) == (2, 2, 1)


def test_a_chosen_tag_without_matches_can_still_be_removed(catalogue):
    found = search("", ["nothing"])
    assert (texts(found), [(tag.name, tag.count, tag.is_chosen) for tag in found.tags]) == (
        [],
        [("nothing", None, True)],
    )


def test_the_text_of_a_variant_chooses_it(catalogue):
    found = search("A red  GLASS vase on a wooden table", (), slug="ein-grüner-würfel")
    assert found.chosen and found.chosen.text == "a red glass vase on a wooden table"
    assert not found.is_wording


def test_a_choice_is_kept_while_it_matches_the_search(catalogue):
    slug = PromptVariant.objects.get(text__startswith="a red clay").slug
    kept = search("red", ["clay"], slug=slug)
    assert kept.chosen and kept.chosen.slug == slug
    for text, tags in (("blue", []), ("red", ["glass"])):
        found = search(text, tags, slug=slug)
        assert found.chosen == found.variants[0] != kept.chosen


def test_the_first_variant_that_is_found_is_chosen_unless_the_text_itself_is(catalogue):
    found = search("red table", ())
    assert found.is_wording and found.chosen == found.variants[0]
    assert search("red table", (), is_own_text=True).chosen is None
    assert search("purple", ()).chosen is None
    assert search("", ["red"]).chosen is None


def test_an_archived_choice_is_dropped(catalogue):
    slug = PromptVariant.objects.get(status="archived").slug
    found = search("a red glass ring", (), slug=slug)
    assert (found.chosen, found.is_wording) == (None, True)


def test_a_large_catalogue_is_truncated_and_the_choice_is_shown(django_assert_num_queries):
    rows = [
        PromptVariant(
            slug=f"v-{n:05}",
            text=f"a vase {n}",
            normalized_text=f"a vase {n}",
            tags=[f"t{n}", "vase"],
        )
        for n in range(300)
    ]
    PromptVariant.objects.bulk_create(rows)
    owner = make_user()
    with django_assert_num_queries(4):
        found = choices.search("vase", (), owner=owner, slug="v-00299")
    assert (len(found.variants), found.has_more, len(found.tags)) == (
        MAX_VARIANTS,
        True,
        MAX_TAGS - 1,  # without that of all found variants
    )
    assert found.chosen and found.variants[0].slug == "v-00299"


def test_the_list_shows_the_newest_picture_of_the_person(catalogue):
    person = make_user(username="person")
    found = search("red", ()).variants
    image = make_image(job=make_job(owner=person, variant=found[0], status="succeeded"))
    make_image(job=make_job(variant=found[1], status="succeeded"))  # of another owner
    shown = choices.listed(found, owner=person)
    assert [choice.variant for choice in shown] == list(found)
    assert str(image.id) in shown[0].thumbnail
    assert {choice.thumbnail for choice in shown[1:]} == {""}


def test_the_list_shows_everybody_the_image_of_each_variant(catalogue):
    own, other, third = (*search("red", ()).variants, *search("blue", ()).variants)
    student = make_release(covered_variants=[own.slug, other.slug])
    mine = make_image(job=make_job(variant=own, release=student, status="succeeded"))
    make_variant_image(variant=own)
    shared = make_variant_image(variant=other)
    make_variant_image(variant=third)  # not covered: no student serves it

    def thumbnails(name: str) -> list[str]:
        found = choices.listed([own, other, third], owner=make_user(username=name))
        return [choice.thumbnail.partition("?")[0] for choice in found]

    assert thumbnails("newcomer")[1:] == [f"/v1/variants/images/{shared.pk}/thumbnail", ""]
    assert thumbnails("newcomer")[0].startswith("/v1/variants/images/")
    assert thumbnails(make_user().username)[0] == f"/v1/images/{mine.pk}/thumbnail"

    make_release(name="student-2", status=Release.Status.CANDIDATE)
    Release.objects.filter(pk=student.pk).update(status=Release.Status.RETIRED)
    Release.objects.filter(name="student-2").update(status=Release.Status.ACTIVE)
    assert thumbnails("newcomer") == ["", "", ""]


@pytest.mark.parametrize(
    ("uncovered", "note"),
    [
        ("teacher", "slow: made by the teacher"),
        ("student", "not trained yet"),
        ("refuse", "not available yet"),
    ],
)
def test_the_list_marks_variants_that_the_student_does_not_cover(
    catalogue, settings, uncovered, note
):
    settings.UNCOVERED = uncovered
    person = make_user()
    found = search("red", ()).variants
    make_release(name="teacher-1", kind=Release.Kind.TEACHER)
    # Without a student no release is faster.
    assert {choice.note for choice in choices.listed(found, owner=person)} == {""}
    make_release(covered_variants=[found[0].slug])
    notes = [choice.note for choice in choices.listed(found, owner=person)]
    assert notes[0] == "" and set(notes[1:]) == {note}


def kinds() -> tuple[tuple[str, ...], ...]:
    return ("vase", "bowl", "cube"), ("red", "blue")


def test_tags_are_grouped_by_kind(catalogue, settings):
    settings.TAG_KINDS = f"{__name__}.kinds"
    rows = [{tag.name for tag in row} for row in search("", ()).tags_by_kind]
    assert rows == [{"vase", "bowl", "cube"}, {"red", "blue"}, {"glass", "clay", "green"}]
    settings.TAG_KINDS = ""
    assert len(search("", ()).tags_by_kind) == 1


def test_releases_are_offered_the_active_ones_first_with_their_sizes(django_assert_num_queries):
    make_release(name="old", status=Release.Status.RETIRED, image_sizes=((32, 32),))
    make_release(name="bad", status=Release.Status.REJECTED)
    make_release(
        name="teacher", kind=Release.Kind.TEACHER, steps=25, image_sizes=((64, 64), (128, 64))
    )
    make_release(name="student", steps=1, image_sizes=((64, 64),))
    with django_assert_num_queries(1):
        found = choices.offers()
    assert [(offer.name, offer.steps, offer.is_active) for offer in found.releases] == [
        ("student", 1, True),
        ("teacher", 25, True),
        ("old", 4, False),
    ]
    assert [offer.name for offer in found.active] == ["student", "teacher"]
    assert found.sizes == [("64x64", "student, teacher"), ("128x64", "teacher"), ("32x32", "old")]
    with django_assert_num_queries(1):  # constant data is cached
        choices.offers()


def test_the_number_of_offered_releases_is_limited():
    for number in range(MAX_RELEASES + 3):
        make_release(name=f"student-{number}")
    found = choices.offers()
    assert len(found.releases) == MAX_RELEASES and found.releases[0].name == "student-0"
    assert found.releases[1].name == f"student-{MAX_RELEASES + 2}"

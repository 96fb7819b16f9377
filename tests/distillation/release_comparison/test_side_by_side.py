"""Two releases side by side: pictures of the same prompts and seeds, sorted by what changed most."""

import html
from pathlib import Path
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse
from PIL import Image as Pictures

from distillation import folders
from distillation.admin import comparison
from distillation.release_comparison import blind, pictures, side_by_side
from generation.images import storage, store
from generation.models import Embedding, Image, Job, PromptVariant, Release
from generation.releases import quality
from generation.releases.quality import Counts
from tests.distillation.pictures import broken
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)
from tests.storage_faults import break_storage

pytestmark = pytest.mark.django_db

TEXTS = ("a red vase", "a blue mug", "a green bowl")


@pytest.fixture
def both() -> tuple[Release, Release]:
    old = make_release(name="old")
    for number, text in enumerate(TEXTS):
        embedding = make_embedding(variant=make_variant(text=text))
        embedding.sha256 = f"{number}" * 64
        embedding.save()
    return old, make_release(name="new")


def picture(release: str, number: int, grey: int, *, seed: int = 5, key: str = "0" * 16) -> Path:
    """Write a picture of an evaluation and return its path."""
    folder = folders.root() / "pictures" / f"{release}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{str(number) * 24}-{seed}.png"
    Pictures.new("RGB", (8, 8), (grey, grey, grey)).save(path)
    return path


def names(pairs) -> list[str]:
    return [pair.text for pair in pairs]


def test_pictures_of_the_same_prompt_and_seed_are_paired_and_sorted_by_change(both):
    for number, change in enumerate((10, 200, 0)):
        picture("old", number, 20)
        picture("new", number, 20 + change)
    picture("new", 0, 20, seed=9)  # which the other lacks
    picture("old-2", 1, 20)  # another release
    found = side_by_side.pairs(*both)
    assert names(found) == ["a blue mug", "a red vase", "a green bowl"]
    assert [round(pair.distance * 255) for pair in found] == [200, 10, 0]
    assert (found[0].first.read(), found[0].seed) == (picture("old", 1, 20).read_bytes(), 5)


def test_a_damaged_picture_is_not_measured(both):
    for release in ("old", "new"):
        picture(release, 0, 20)
        path = picture(release, 1, 20)
    path.write_bytes(broken(path.read_bytes()))
    assert {pair.text: pair.distance for pair in side_by_side.pairs(*both)} == {
        "a red vase": 0.0,
        "a blue mug": None,
    }


def test_prompts_that_both_evaluations_judged_are_sorted_by_the_share_of_right_pictures(both):
    for number in range(3):
        picture("old", number, 0)
        picture("new", number, 100 * number)
    for release, right in zip(both, (4, 1), strict=True):
        quality.record_evaluation(release, {"a red vase": Counts(right, 4)})
    found = side_by_side.pairs(*both)
    assert names(found) == ["a red vase", "a green bowl", "a blue mug"]
    assert found[0].change == -0.75 and found[1].change is None


def test_pictures_of_jobs_with_the_seed_are_compared_too(both):
    for release, grey in zip(both, (0, 90), strict=True):
        content = Path(picture("scratch", 0, grey)).read_bytes()
        embedding = Embedding.objects.get(text="a red vase")
        job = make_job(release=release, embedding=embedding, seed=0)
        key = store.image_key(release, embedding, seed=0, width=64, height=64, steps=4)
        stored = storage.save(content, "png").name
        make_image(job=job)
        Image.objects.filter(job=job).update(key=key, master=stored, file=stored)
    (pair,) = side_by_side.pairs(*both)
    assert (pair.text, round(pair.distance * 255)) == ("a red vase", 90)
    assert pictures.find(both[1], pair.embedding, 0).read() == pair.second.read()


@pytest.mark.parametrize("fault", ["not mounted", "unreadable"])
def test_while_the_storage_fails_no_picture_is_reported_as_not_found(admin, both, settings, fault):
    embedding = Embedding.objects.get(text="a red vase")
    image = make_image(job=make_job(release=both[0], embedding=embedding, seed=0))
    key = store.image_key(both[0], embedding, seed=0, width=64, height=64, steps=4)
    Image.objects.filter(pk=image.pk).update(key=key)
    link = reverse("admin:generation_release_compared", args=[both[0].pk, "0" * 24, 0])
    assert admin.get(link).status_code == 200
    break_storage(settings.MEDIA_ROOT, fault, [image])

    answer = admin.get(link)

    assert answer.status_code == 503 and "Retry-After" in answer


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


COMPARE = {"first": "old", "second": "new"}


def test_the_page_has_a_slider_over_both_pictures_of_each_prompt(admin, both):
    picture("old", 1, 0)
    picture("new", 1, 255)
    page = admin.get(reverse("admin:generation_release_compare"), COMPARE).content.decode()
    assert "a blue mug" in page and 'type="range"' in page and "distance 1.000" in page
    for release in both:
        link = reverse("admin:generation_release_compared", args=[release.pk, "1" * 24, 5])
        assert link in page
        answer = admin.get(link)
        assert answer["Content-Type"] == "image/png" and answer.content[:4] == b"\x89PNG"
    for sha, seed in (("1" * 24, 6), ("x", 5), ("1" * 23, 0)):
        link = reverse("admin:generation_release_compared", args=[both[0].pk, sha, seed])
        assert admin.get(link).status_code == 404


NEW = {"first": "teacher", "second": "candidate", "new": "active"}


@pytest.fixture
def candidate() -> Release:
    """A candidate with pictures of three prompts, of which the active release covers one, beside its teacher's."""
    release = make_release(name="candidate")
    for number, text in enumerate(TEXTS):
        embedding = make_embedding(variant=make_variant(text=text))
        embedding.sha256 = f"{number}" * 64
        embedding.save()
        for name in ("teacher", "candidate", "active"):
            if name != "active" or text == "a red vase":
                picture(name, number, 20)
    make_release(name="active", status="retired", covered_variants=["a-red-vase"])
    make_release(name="teacher", kind="teacher")
    return release


def test_prompts_that_a_release_does_not_cover_are_shown_beside_the_teacher(admin, candidate):
    teacher, active = (Release.objects.get(name=name) for name in ("teacher", "active"))
    assert names(side_by_side.pairs(active, candidate)) == ["a red vase"]
    found = side_by_side.pairs(teacher, candidate, not_covered_by=active)
    assert sorted(names(found)) == ["a blue mug", "a green bowl"]
    assert len(blind.trials(teacher, candidate, not_covered_by=active)) == 2
    PromptVariant.objects.filter(text="a blue mug").update(status="archived")
    assert names(side_by_side.pairs(teacher, candidate, not_covered_by=active)) == ["a green bowl"]


def test_the_choice_of_new_prompts_is_kept_on_all_pages(admin, candidate, monkeypatch):
    monkeypatch.setattr(comparison, "ON_A_PAGE", 1)
    compare, blindly = (
        reverse(f"admin:generation_release_{page}") for page in ("compare", "blind")
    )
    query = urlencode(NEW)

    page = html.unescape(admin.get(compare, NEW).content.decode())
    assert "2 new prompts" in page and "a red vase" not in page
    assert f"?{query}&page=2" in page and f"{blindly}?{query}" in page
    assert "a red vase" not in admin.get(compare, NEW | {"page": 2}).content.decode()

    page = admin.get(blindly, NEW).content.decode()
    assert page.count("Left picture") == 2 and 'name="new" value="active"' in page
    page = html.unescape(admin.get(blindly, NEW | {"answered": "1"}).content.decode())
    assert f"{compare}?{query}" in page

    assert admin.post(f"{compare}?{query}").url == f"{compare}?{query}&page=1"
    made = Job.objects.values_list("variant__text", flat=True)
    assert set(made) == {"a blue mug", "a green bowl"}
    assert admin.get(compare, NEW | {"new": "nothing"}).status_code == 404


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"first": "old", "second": "old"}, "two different releases"),
        ({"first": "old", "second": "nothing"}, "Choose two releases"),
        ({"first": "old", "second": "other"}, "different text encoders"),
        ({}, "There is no picture of the same prompt"),
    ],
)
def test_an_impossible_comparison_is_explained(admin, both, query, words):
    make_release(name="other", encoder_fingerprint="f" * 64)
    if not query:
        Release.objects.filter(name="other").delete()
    assert words in admin.get(reverse("admin:generation_release_compare"), query).content.decode()


def test_missing_pictures_are_made_by_jobs_of_both_releases(admin, both):
    url = reverse("admin:generation_release_compare")
    page = admin.post(f"{url}?first=old&second=new", follow=True).content.decode()
    assert "6 jobs make the pictures" in page
    jobs = Job.objects.values_list("release__name", "seed", "owner__username")
    assert sorted(jobs) == [("new", 0, "admin")] * 3 + [("old", 0, "admin")] * 3


# --- blindly --------------------------------------------------------------------------------------
def blind_page(client: Client, **answers: str) -> str:
    url = reverse("admin:generation_release_blind")
    return client.get(url, COMPARE | answers).content.decode()


def test_a_blind_comparison_hides_the_releases_and_counts_the_answers(admin, both):
    for number in range(3):
        picture("old", number, 20)
        picture("new", number, 200)
    page = blind_page(admin)
    assert page.count("Left picture") == 3 and "Which picture is better?" in page
    trials = blind.trials(*both)
    for trial in trials:
        links = [
            reverse("admin:generation_release_compared", args=[release.pk, trial.pair.embedding, 5])
            for release in both
        ]
        shown = sorted(links, key=page.index)
        assert shown == (links[::-1] if trial.is_swapped else links)
    # The new one is preferred twice, on whichever side it was.
    chosen = {
        trial.pair.embedding: "left" if trial.is_swapped else "right" for trial in trials[:2]
    } | {trials[2].pair.embedding: "same"}
    page = blind_page(admin, answered="1", **chosen)
    assert "new was preferred 2 times, old 0 times, neither 1 time" in page
    assert "probability of 0.50" in page and "Left picture" not in page


def test_sides_are_drawn_for_each_pair_and_stay_the_same(both):
    for number in range(3):
        for release in ("old", "new"):
            picture(release, number, 20)
    first, second = blind.trials(*both), blind.trials(*both)
    assert first == second
    swaps = {
        trial.is_swapped
        for name in ("a", "b", "c", "d")
        for trial in blind.trials(both[0], renamed(both[1], name))
    }
    assert swaps == {True, False}


def renamed(release: Release, name: str) -> Release:
    """Return the release with another name and with pictures under it."""
    for number in range(3):
        picture(name, number, 20)
    release.name = name
    return release


@pytest.mark.parametrize(
    ("first", "second", "chance"), [(0, 0, None), (5, 5, 1.0), (0, 8, 2 / 256), (12, 4, 0.0768)]
)
def test_the_chance_of_a_tally_is_that_of_the_sign_test(first, second, chance):
    found = blind.Tally(first, second, 3).chance
    assert found == (None if chance is None else pytest.approx(chance, abs=1e-4))


def test_comparisons_need_the_view_permission(both):
    client = Client()
    client.force_login(make_user(username="editor", is_staff=True))
    assert client.get(reverse("admin:generation_release_compare"), COMPARE).status_code == 403
    assert client.get(reverse("admin:generation_release_blind"), COMPARE).status_code == 403
    picture("old", 1, 0)
    link = reverse("admin:generation_release_compared", args=[both[0].pk, "1" * 24, 5])
    assert client.get(link).status_code == 403

"""Page of one picture: its facts, the pictures beside it, favourites, deletion."""

import json
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from generation.jobs import retention
from generation.models import Favourite, Image, Job
from generation.page import sharing
from tests.client import API, problem
from tests.factories import make_image, make_job, make_user, make_variant
from tests.page_client import Person, html, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def person() -> Person:
    return Person()


def ended(person: Person, *, minutes: int = 0, n: int = 1, **fields) -> Job:
    at = timezone.now() - timedelta(minutes=minutes)
    job = make_job(owner=person.user, status="succeeded", n=n, created_at=at, **fields)
    for index in range(n):
        make_image(job=job, index=index)
    return job


def beside(answer) -> dict[str, str]:
    """Return the links to the previous and the next picture."""
    return dict(re.findall(r'rel="(prev|next)" href="([^"]+)"', html(answer)))


def test_a_picture_deleted_while_its_page_is_rendered_causes_no_server_error(person):
    for of in (lambda image: f"/pictures/{image.id}", lambda image: sharing.path(image.id)):
        image = ended(person).images.get()
        seen = []

        def deleting(execute, sql, params, many, context, image=image, seen=seen):
            found = execute(sql, params, many, context)
            if 'FROM "generation_image"' in sql and not seen:
                seen.append(sql)
                retention.remove_images(image.job_id, [image.id])
            return found

        with connection.execute_wrapper(deleting):
            assert person.get(of(image)).status_code in (200, 410)
        assert seen and person.get(of(image)).status_code == 410


def test_a_picture_has_a_page_with_its_facts(person):
    job = ended(person, n=2)
    image = job.images.get(index=1)
    Image.objects.filter(id=image.id).update(is_accepted=False, failing=["vase", "red"])

    page = person.get(f"/pictures/{image.id}")

    assert "a red glass vase on a wooden table" in words(page)
    for fact in ("Seed 2", "student-1 (student), 4 steps", "rejected: vase, red", "picture 2 of 2"):
        assert fact in words(page)
    source = re.search(r'<img src="(/v1/images/[^"]+/file[^"]+)"', html(page))
    assert source and person.get(source[1]).status_code == 200
    part = person.get(f"/pictures/{image.id}", htmx=True)
    assert "<html" not in html(part) and "rejected: vase, red" in words(part)


def test_next_and_previous_follow_the_gallery_and_its_filter(person):
    blue = make_variant(text="a blue bowl")
    jobs = [
        ended(person, minutes=0),
        ended(person, minutes=5, n=3, variant=blue),
        ended(person, minutes=9, variant=blue),
    ]
    make_job(owner=person.user, status="failed")
    ended(Person(username="somebody"), minutes=7)
    order = [str(image.id) for job in jobs for image in job.images.order_by("index")]

    def walk(path: str, way: str) -> list[str]:
        seen = []
        while path:
            seen.append(path.split("/")[2].split("?")[0])
            path = beside(person.get(path)).get(way, "")
        return seen

    assert walk(f"/pictures/{order[0]}", "next") == order
    assert walk(f"/pictures/{order[-1]}", "prev") == order[::-1]
    assert walk(f"/pictures/{order[1]}?variant=a-blue-bowl", "next") == order[1:]
    assert walk(f"/pictures/{order[-1]}?variant=a-blue-bowl", "prev") == order[:0:-1]


def test_a_favourite_is_marked_found_and_unmarked(person):
    job = ended(person, n=3)
    ended(person)
    image = job.images.get(index=1)
    path = f"/pictures/{image.id}"

    answer = person.post(f"{path}/mark", htmx=True)
    assert answer.status_code == 204
    assert json.loads(answer["HX-Trigger"]) == {
        "marked": {"image": str(image.id), "is_favourite": True}
    }
    assert 'aria-pressed="true"' in html(person.get(path))
    found = person.get("/gallery", {"favourites": "true"})
    assert html(found).count('class="tile"') == 1 and f"{path}?favourites=true" in html(found)

    assert person.post(f"{path}/mark")["Location"] == path
    assert not Favourite.objects.exists() and 'aria-pressed="false"' in html(person.get(path))
    assert "None of your pictures match." in words(person.get("/gallery", {"favourites": "true"}))


def test_one_picture_is_deleted_and_the_others_stay(person):
    job = ended(person, n=3)
    image = job.images.get(index=1)
    person.post(f"/pictures/{image.id}/mark")

    answer = person.post(f"/pictures/{image.id}/delete")

    job.refresh_from_db()
    assert answer["Location"] == "/gallery" and job.purged_at is None
    assert [one.index for one in job.images.all()] == [0, 2] and not Favourite.objects.exists()
    assert "The picture was deleted." in words(person.get("/gallery"))
    assert person.get(f"/pictures/{image.id}").status_code == 410
    api = API(owner=person.user)
    problem(api.get(f"/v1/images/{image.id}"), 410, "job_purged")
    assert [one["seed"] for one in api.get(f"/v1/jobs/{job.id}").json()["images"]] == [1, 3]


def test_a_job_is_deleted_with_its_last_picture(person):
    job = ended(person)
    person.post(f"/pictures/{job.images.get().id}/delete")
    job.refresh_from_db()
    assert job.purged_at is not None


def test_pictures_of_other_owners_are_not_found(person):
    job = ended(Person(username="somebody"))
    image = job.images.get()
    assert person.get(f"/pictures/{image.id}").status_code == 404
    for what in ("mark", "delete"):
        assert person.post(f"/pictures/{image.id}/{what}").status_code == 404
    assert Image.objects.filter(id=image.id).exists() and not Favourite.objects.exists()
    assert make_user(username="somebody").favourites.count() == 0

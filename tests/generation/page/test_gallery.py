"""Gallery: ownership, order, pagination."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from generation.models import Image, Job
from tests.factories import make_image, make_job, make_user, make_variant
from tests.page_client import Person, html, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def ended(person: Person, **fields) -> Job:
    job = make_job(owner=person.user, status="succeeded", **fields)
    make_image(job=job)
    return job


def shown(answer) -> list[str]:
    """Return the ids of the jobs, in order."""
    return list(dict.fromkeys(re.findall(r'href="/jobs/([^"]+)"', html(answer))))


def more(answer) -> str:
    found = re.search(r'<li class="more"><a class="button" href="([^"]+)"', html(answer))
    return found[1] if found else ""


def test_pictures_are_shown_newest_first_and_each_links_to_its_job():
    person = Person()
    first, second = ended(person), ended(person, via="jobs", n=2)
    make_image(job=second, index=1)
    page = person.get("/gallery")
    assert shown(page) == [str(second.id), str(first.id)]
    assert html(page).count('<img src="/v1/images/') == 3 and "2 pictures" in words(page)
    picture = re.search(r'src="(/v1/images/[^"]+)"', html(page))
    assert picture and person.get(picture[1])["Content-Type"] == "image/webp"
    assert 'alt="a red glass vase on a wooden table, seed 1"' in html(page)


def test_failed_jobs_are_marked_and_canceled_or_purged_jobs_are_not_shown():
    person = Person()
    failed = make_job(owner=person.user, status="failed")
    make_job(owner=person.user, status="canceled")
    make_job(owner=person.user)
    ended(person, purged_at=timezone.now())
    make_job(owner=make_user(username="somebody"), status="succeeded")
    page = person.get("/gallery")
    assert shown(page) == [str(failed.id)] and "Failed An unexpected fault occurred." in words(page)


def test_the_gallery_is_loaded_in_parts_without_a_gap_or_a_repetition():
    person = Person()
    now = timezone.now()
    # Several jobs ended at the same moment.
    jobs = [ended(person, created_at=now - timedelta(seconds=n // 3)) for n in range(60)]
    seen: list[str] = []
    answer = person.get("/gallery")
    while True:
        part = shown(answer)
        assert 0 < len(part) <= 24
        seen += part
        if not more(answer):
            break
        answer = person.get(more(answer), htmx=True)
        assert "<html" not in html(answer) and html(answer).count("autofocus") == 1
        ended(person)  # new jobs do not shift the following parts
    expected = sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)
    assert seen == [str(job.id) for job in expected]


def test_without_javascript_a_part_is_a_page():
    person = Person()
    for _ in range(25):
        ended(person)
    address = more(person.get("/"))
    assert address.startswith("/gallery?before=")
    page = person.get(address)
    assert "<html" in html(page) and len(shown(page)) == 1


def test_the_gallery_can_be_filtered_by_prompt():
    person = Person()
    blue = make_variant(text="a blue bowl")
    for _ in range(30):
        ended(person, variant=blue)
    ended(person)
    page = person.get("/gallery", {"variant": "a-blue-bowl"})
    assert len(shown(page)) == 24 and "variant=a-blue-bowl&before=" in more(page)
    assert len(shown(person.get(more(page), htmx=True))) == 6
    assert '<a class="tag only" href="/gallery"' in html(page)
    assert person.get("/gallery", {"variant": "unknown"}).status_code == 404


def test_filters_find_by_words_tag_and_day():
    person = Person()
    at = timezone.now().replace(year=2026, month=3, day=9, hour=23, minute=30)
    blue = make_variant(text="a blue glass bowl", tags=["bowl", "blue"])
    first = ended(person, variant=blue, created_at=at)
    second = ended(person, variant=blue, created_at=at + timedelta(hours=1))
    third = ended(person, variant=make_variant(text="a red vase", tags=["vase", "red"]))

    def found(**query: str) -> list[str]:
        return shown(person.get("/gallery", query))

    everything = [str(third.id), str(second.id), str(first.id)]
    assert found(q="Bowl  BLUE") == found(tag="bowl") == everything[1:]
    assert found(q="blue", since="2026-03-10") == [str(second.id)]
    assert found(until="2026-03-09") == [str(first.id)]
    assert found(since="2026-03-09", until="2026-03-10", tag="blue") == everything[1:]
    assert found(since="0001-01-01", until="9999-12-31") == everything
    assert found(q="", tag="", since="", until="", utm_source="mail") == everything
    assert "None of your pictures match." in words(person.get("/gallery", {"q": "green"}))
    assert person.get("/gallery", {"since": "yesterday"}).status_code == 400
    page = person.get("/gallery", {"q": "bl", "since": "2026-03-01"})
    assert 'value="bl"' in html(page) and 'value="2026-03-01"' in html(page)
    assert "?q=bl&since=2026-03-01" in html(page)  # to go to the next picture of the same filter


def test_the_oldest_can_come_first_in_every_part_and_among_neighbours():
    person = Person()
    jobs = [ended(person) for _ in range(30)]
    first = person.get("/gallery", {"order": "oldest"})
    second = person.get(more(first), htmx=True)

    seen = shown(first) + shown(second)

    assert seen == [str(job.id) for job in sorted(jobs, key=lambda job: (job.created_at, job.id))]
    images = [Image.objects.get(job=job_id).pk for job_id in seen[:3]]
    page = person.get(f"/pictures/{images[1]}", {"order": "oldest"})
    previous, following = re.findall(r'rel="(?:prev|next)" href="/pictures/([^"]+)"', html(page))
    assert previous == f"{images[0]}?order=oldest" and following == f"{images[2]}?order=oldest"
    assert "← Older Newer →" in words(page)


def test_more_pictures_cost_no_more_queries(django_assert_num_queries):
    person = Person()
    ended(person)
    with django_assert_num_queries(6):  # session, person, jobs, images, tags, their kinds
        person.get("/gallery")
    for _ in range(30):
        job = ended(person, variant=make_variant(), n=2)
        make_image(job=job, index=1)
    with django_assert_num_queries(6):
        person.get("/gallery")


def test_without_jobs_gallery_and_form_say_nothing_yet():
    assert "Nothing yet." in words(Person().get("/gallery"))
    assert "Nothing yet." in words(Person().get("/"))

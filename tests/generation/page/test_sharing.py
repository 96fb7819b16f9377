"""Links to a picture for people without an account."""

import re
from datetime import timedelta

import pytest
from django.core import signing
from django.test import Client

from generation.page import sharing
from tests.factories import make_image, make_job
from tests.page_client import Person, html, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def link() -> str:
    person = Person()
    image = make_image(job=make_job(owner=person.user, status="succeeded"))
    found = re.search(r'id="share-link">([^<]+)<', html(person.get(f"/pictures/{image.id}")))
    assert found
    return found[1]


def test_everybody_with_the_link_sees_the_picture_and_nothing_else(link: str):
    anonymous = Client()
    page = anonymous.get(link)
    assert page.status_code == 200 and page["X-Robots-Tag"] == "noindex"
    assert "a red glass vase on a wooden table" in words(page)
    source = re.search(r'<img src="(/v1/images/[^"]+)"', html(page))
    assert source and anonymous.get(source[1]).status_code == 200
    assert "/pictures/" not in html(page) and "/jobs/" not in html(page)


def test_a_link_is_not_in_the_log(link: str, caplog):
    with caplog.at_level("INFO"):
        Client().get(link)
    lines = [record.getMessage() for record in caplog.records]
    assert any("GET /shared/…" in line for line in lines)
    assert not any(link.rsplit("/", 1)[1] in line for line in lines)


def test_a_link_expires(link: str, monkeypatch):
    now = signing.time.time
    monkeypatch.setattr(
        signing.time, "time", lambda: now() + timedelta(days=sharing.DAYS).total_seconds() + 1
    )
    answer = Client().get(link)
    assert answer.status_code == 403 and "Ask its sender for a new one." in words(answer)


def test_a_link_that_was_changed_is_refused(link: str):
    answer = Client().get(link[:-1])
    assert answer.status_code == 403 and "The link is incomplete." in words(answer)


def test_a_link_becomes_invalid_with_its_picture(link: str):
    image_id = sharing.read(link.rsplit("/", 1)[1])
    Person().post(f"/pictures/{image_id}/delete")
    assert Client().get(link).status_code == 410

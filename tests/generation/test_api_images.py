"""Images over HTTP: metadata for the owner, files for whoever holds a link."""

import time
from pathlib import Path

import pytest
from django.test import Client

from generation import links
from tests.client import API, problem
from tests.people import make_image, make_job

pytestmark = pytest.mark.django_db


def link(image) -> str:
    return links.image_path(image.id)


def test_metadata_carries_a_link_to_the_file():
    api = API()
    image = make_image(job=make_job(owner=api.owner, status="succeeded"))

    shown = api.get(f"/v1/images/{image.id}").json()

    assert (shown["sha256"], shown["job"], shown["format"]) == (
        image.sha256,
        str(image.job_id),
        "webp",
    )
    assert Client().get(shown["url"]).status_code == 200


@pytest.mark.parametrize(
    ("output_format", "start"), [("webp", b"RIFF"), ("png", b"\x89PNG"), ("jpeg", b"\xff\xd8")]
)
def test_the_file_needs_no_key_and_says_what_it_is(output_format: str, start: bytes):
    image = make_image(job=make_job(status="succeeded", output_format=output_format))

    answer = Client().get(link(image), headers={"Accept": "image/*"})

    assert (answer.status_code, answer["Content-Type"]) == (200, f"image/{output_format}")
    assert answer.content.startswith(start)
    assert answer["ETag"] == f'"{image.sha256}"'
    assert "immutable" in answer["Cache-Control"]


def test_a_copy_that_is_still_good_is_not_sent_again():
    image = make_image()

    answer = Client().get(link(image), headers={"If-None-Match": f'"{image.sha256}"'})

    assert (answer.status_code, answer.content) == (304, b"")
    assert Client().get(link(image), headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_head_request_names_the_size_without_the_file():
    image = make_image()

    answer = Client().head(link(image))

    assert (answer.status_code, answer.content) == (200, b"")


def test_forged_links_are_refused():
    image, other = make_image(), make_image(job=make_job(status="succeeded", seed=2))
    path, query = link(image).split("?")
    expires, signature = (part.split("=")[1] for part in query.split("&"))
    forged = [
        f"{path}?expires={int(expires) + 1}&signature={signature}",
        f"{path}?expires={expires}&signature={signature[:-1]}",
        f"{path}?expires={expires}&signature=x:y",
        f"/v1/images/{other.id}/file?{query}",
    ]

    for url in forged:
        problem(Client().get(url), 403, "link_invalid")
    problem(Client().get(path), 400, "invalid_request")
    problem(Client().get(f"{path}?{query}&size=big"), 400, "invalid_request")


def test_a_link_ends(settings):
    settings.LINK_SECONDS = 1
    url = link(make_image())
    assert Client().get(url).status_code == 200

    time.sleep(2.1)

    problem(Client().get(url), 403, "link_expired")


def test_everybody_gets_the_same_link_for_a_while_so_that_caches_can_keep_it():
    image = make_image()

    first = link(image)
    time.sleep(1.1)

    assert link(image) == first


def test_a_file_that_is_gone_is_said_to_be_gone(settings):
    image = make_image()
    (Path(settings.MEDIA_ROOT) / image.file).unlink()

    problem(Client().get(link(image)), 410, "image_gone")


def test_a_link_to_an_image_that_was_deleted_leads_nowhere():
    image = make_image()
    url = link(image)
    image.delete()

    problem(Client().get(url), 404, "not_found")


def test_the_request_log_names_the_file_but_never_its_signature(caplog):
    address = link(make_image())

    with caplog.at_level("INFO"):
        Client().get(address)

    lines = [str(record.msg) for record in caplog.records]
    assert any(address.split("?")[0] in line for line in lines)
    assert not any("signature" in line for line in lines)

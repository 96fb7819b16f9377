"""Images over HTTP: metadata for the owner, files for holders of a link."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from django.test import Client
from PIL import Image as Picture

from generation.images import links, storage
from generation.jobs import retention
from generation.models import Image
from project.asgi import THREADS
from tests import fake_worker
from tests.client import API, problem
from tests.factories import (
    DEFAULT_SLUG,
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
)
from tests.silent_store import SilentStore
from tests.web import Web, eventually

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
def test_the_file_needs_no_key_and_has_its_content_type(output_format: str, start: bytes):
    image = make_image(job=make_job(status="succeeded", output_format=output_format))

    answer = Client().get(link(image), headers={"Accept": "image/*"})

    assert (answer.status_code, answer["Content-Type"]) == (200, f"image/{output_format}")
    assert answer.content.startswith(start)
    assert answer["ETag"] == f'"{image.sha256}"'
    assert "immutable" in answer["Cache-Control"]


def test_an_unchanged_file_is_not_sent_again():
    image = make_image()

    answer = Client().get(link(image), headers={"If-None-Match": f'"{image.sha256}"'})

    assert (answer.status_code, answer.content) == (304, b"")
    assert Client().get(link(image), headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", [links.image_path, links.thumbnail_path])
def test_a_failed_precondition_is_never_cached(path):
    image = make_image()

    answer = Client().get(path(image.id), headers={"If-Match": '"another file"'})

    assert (answer.status_code, answer["Cache-Control"]) == (412, "no-store")
    assert "ETag" not in answer
    matching = Client().get(path(image.id), headers={"If-Match": "*"})
    assert (matching.status_code, "immutable" in matching["Cache-Control"]) == (200, True)


def test_a_head_request_returns_the_size_without_the_file():
    image = make_image()

    answer = Client().head(link(image))

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer["Content-Length"]) == image.size_bytes
    assert (answer["ETag"], answer["Content-Type"]) == (f'"{image.sha256}"', "image/webp")
    storage.remove(image.file)
    assert Client().head(link(image)).status_code == 410


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
    problem(Client().get(f"{path}?{query}&download=maybe"), 400, "invalid_request")


def test_a_link_to_a_file_expires(settings):
    settings.LINK_SECONDS = 1
    url = link(make_image())
    assert Client().get(url).status_code == 200

    time.sleep(2.1)

    problem(Client().get(url), 403, "link_expired")


def test_a_link_stays_the_same_for_a_while_so_that_caches_can_use_it():
    image = make_image()

    first = link(image)
    time.sleep(1.1)

    assert link(image) == first


def test_a_missing_file_is_reported_as_gone(settings):
    image = make_image()
    (Path(settings.MEDIA_ROOT) / image.file).unlink()

    problem(Client().get(link(image)), 410, "image_gone")


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("path", [links.image_path, links.thumbnail_path])
def test_while_the_storage_is_unavailable_no_image_is_reported_as_gone(settings, path, is_file):
    image = make_image()
    folder = Path(settings.MEDIA_ROOT) / "images"
    folder.rename(folder.with_name("elsewhere"))
    if is_file:
        folder.write_text("no folder")

    for ask in (Client().get, Client().head):
        answer = ask(path(image.id))

        assert answer.status_code == 503 and "Retry-After" in answer


def test_a_link_to_a_deleted_image_is_not_found():
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


def test_a_browser_saves_the_file_on_request():
    image = make_image(job=make_job(status="succeeded", output_format="png"))

    saved, shown = Client().get(f"{link(image)}&download=1"), Client().get(link(image))

    assert saved["Content-Disposition"] == f'attachment; filename="red-glass-vase-{image.seed}.png"'
    assert "Content-Disposition" not in shown
    assert saved.content == shown.content


def test_a_removed_image_is_gone_and_an_unknown_one_is_not_found():
    api = API()
    image = make_image(job=make_job(owner=api.owner, status="succeeded"))
    links_to_it = (link(image), links.thumbnail_path(image.id))
    retention.purge(image.job_id)

    for url in links_to_it:
        problem(Client().get(url), 410, "job_purged")
    problem(api.get(f"/v1/images/{image.id}"), 410, "job_purged")
    problem(API(owner=make_user(username="else")).get(f"/v1/images/{image.id}"), 404, "not_found")


# --- thumbnails -----------------------------------------------------------------------------------
@pytest.mark.parametrize("output_format", ["webp", "png", "jpeg"])
def test_every_image_has_a_thumbnail_behind_a_link_of_its_own(output_format: str):
    api = API()
    job = make_job(
        owner=api.owner, status="succeeded", output_format=output_format, width=400, height=600
    )
    image = make_image(job=job)
    (shown,) = api.get(f"/v1/jobs/{job.id}").json()["images"]

    answer = Client().get(shown["thumbnail_url"])

    assert (answer.status_code, answer["Content-Type"]) == (200, "image/webp")
    with Picture.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (171, 256)
    assert "immutable" in answer["Cache-Control"]
    again = Client().get(shown["thumbnail_url"], headers={"If-None-Match": answer["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert answer["ETag"] != f'"{image.sha256}"'
    assert int(Client().head(shown["thumbnail_url"])["Content-Length"]) == len(answer.content)


def test_a_link_to_the_thumbnail_is_valid_for_nothing_else():
    image = make_image()
    for to, other in (("file", "thumbnail"), ("thumbnail", "file")):
        url = link(image) if to == "file" else links.thumbnail_path(image.id)

        problem(Client().get(url.replace(f"/{to}?", f"/{other}?")), 403, "link_invalid")


def test_the_thumbnail_of_an_image_whose_files_are_gone_is_gone():
    image = make_image()
    storage.remove(image.file)
    storage.remove(image.master)

    problem(Client().get(links.thumbnail_path(image.id)), 410, "image_gone")


# --- in an object store ---------------------------------------------------------------------------
def test_clients_are_redirected_to_files_in_an_object_store(bucket):
    image = make_image()

    answer = Client().get(link(image))

    assert (answer.status_code, answer.content) == (302, b"")
    assert answer["Cache-Control"] == "public, max-age=600"
    fetched = httpx.get(answer["Location"])
    assert fetched.content == storage.read(image.file)
    assert fetched.headers["Content-Type"] == "image/webp"
    small = Client().get(links.thumbnail_path(image.id))
    assert Picture.open(io.BytesIO(httpx.get(small["Location"]).content)).size == (64, 64)
    saved = httpx.get(Client().get(f"{link(image)}&download=true")["Location"])
    assert (
        saved.headers["Content-Disposition"]
        == f'attachment; filename="red-glass-vase-{image.seed}.webp"'
    )


def test_the_redirect_to_the_object_store_is_cached_no_longer_than_its_link_is_valid(
    bucket, settings
):
    settings.LINK_SECONDS = 100

    answer = Client().get(link(make_image()))

    seconds = int(answer["Cache-Control"].rpartition("=")[2])
    assert 90 <= seconds <= 104
    assert f"X-Amz-Expires={seconds + 60}&" in answer["Location"]


def test_head_and_conditional_requests_are_answered_without_a_redirect(bucket):
    image = make_image()

    head = Client().head(link(image))
    copy = Client().get(link(image), headers={"If-None-Match": f'"{image.sha256}"'})

    assert (head.status_code, int(head["Content-Length"])) == (200, image.size_bytes)
    assert (copy.status_code, copy.content) == (304, b"")


def test_files_of_a_private_object_store_are_sent_by_the_web_process(bucket, settings):
    settings.S3_DELIVERY = "serve"
    image = make_image()

    answer = Client().get(link(image))

    assert (answer.status_code, answer.content) == (200, storage.read(image.file))
    assert "immutable" in answer["Cache-Control"]
    bucket.objects.delete()
    problem(Client().get(link(image)), 410, "image_gone")


def test_an_unreachable_object_store_is_a_temporary_error(bucket, settings):
    from project.settings.storage import object_store

    image = make_image()
    url = link(image)
    settings.S3_DELIVERY = "serve"
    away = object_store("somewhere", endpoint_url="http://127.0.0.1:1", region="us-east-1")
    settings.STORAGES = {**settings.STORAGES, "default": away}

    answer = Client().get(url)

    assert problem(answer, 503, "storage_failed")["retryable"] is True
    assert int(answer["Retry-After"]) >= 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_a_web_process_configured_with_an_object_store_redirects_clients_to_it(
    bucket, object_store_url: str, tmp_path: Path
):
    image = make_image()
    web = Web(
        tmp_path,
        S3_BUCKET=bucket.name,
        S3_ENDPOINT_URL=object_store_url,
        S3_REGION="us-east-1",
        S3_PREFIX="/pictures/",
    )
    try:
        answer = web.http.get(link(image))
        assert (answer.status_code, answer.content) == (302, b"")
        assert httpx.get(answer.headers["Location"]).content == storage.read(image.file)
        head = web.http.head(link(image))
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(image.size_bytes))
    finally:
        web.stop()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_an_object_store_that_hangs_holds_few_threads_of_the_web_process(
    redis_server, tmp_path: Path
):
    api = API()
    fields = {"variant": DEFAULT_SLUG, "seed": 7}
    image = made_by(api, fields)
    with SilentStore() as store, ThreadPoolExecutor(3 * THREADS + 1) as clients:
        web = Web(
            tmp_path,
            S3_BUCKET="somewhere",
            S3_ENDPOINT_URL=store.url,
            S3_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
        )
        try:
            address = links.thumbnail_path(image.id)
            thumbnails = [clients.submit(web.http.get, address) for _ in range(3 * THREADS)]
            eventually(lambda: len(store.connections) >= 3)
            own = {"Authorization": f"Bearer {api.plain}"}

            models = clients.submit(web.http.get, "/v1/models", headers=own)
            assert models.result(timeout=30).status_code == 200
            again = web.http.post("/v1/jobs", json=fields, headers=own)

            for answer in [*(each.result(timeout=60) for each in thumbnails), again]:
                assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
                assert int(answer.headers["Retry-After"]) >= 1
            assert web.process.poll() is None
        finally:
            web.stop()


@pytest.mark.django_db(transaction=True)
def test_a_local_storage_that_hangs_holds_few_threads_of_the_web_process(
    redis_server, settings, tmp_path: Path
):
    """A file whose reading never returns, as on a disk or a file server that hangs."""
    image = made_by(api := API(), {"variant": DEFAULT_SLUG, "seed": 7})
    file = settings.MEDIA_ROOT / image.file
    whole = file.rename(tmp_path / "whole")
    os.mkfifo(file)
    with ThreadPoolExecutor(3 * THREADS + 1) as clients:
        web = Web(tmp_path, DATA_DIR=str(settings.DATA_DIR), WEB_STUCK_SECONDS="10")
        try:
            files = [clients.submit(web.http.get, link(image)) for _ in range(3 * THREADS)]
            own = {"Authorization": f"Bearer {api.plain}"}

            models = clients.submit(web.http.get, "/v1/models", headers=own)
            assert models.result(timeout=60).status_code == 200

            for answer in (each.result(timeout=60) for each in files):
                assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
                assert int(answer.headers["Retry-After"]) >= 1
            eventually(lambda: web.http.get("/health/ready").json()["threads"]["busy"] == 0)
            assert web.http.get("/v1/models", headers=own).status_code == 200
            assert web.process.poll() is None

            writer = os.open(file, os.O_RDWR)
            whole.rename(file)
            os.close(writer)  # the hanging calls end
            eventually(lambda: web.http.get(link(image)).status_code == 200)
        finally:
            web.stop()


def made_by(api: API, fields: dict) -> Image:
    """Submit this request, the only job, and return its image."""
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api.post("/v1/jobs", fields)
    fake_worker.make_pictures()
    return Image.objects.get()


@pytest.mark.parametrize("damage", ("empty", "same size", "removed"))
def test_a_damaged_file_is_rendered_again_from_the_master_and_never_served(settings, damage):
    """Damage as after a power cut without fsync, or by a failing disk."""
    api = API()
    fields = {"variant": DEFAULT_SLUG, "seed": 7}
    image = made_by(api, fields)
    path = settings.MEDIA_ROOT / image.file
    whole = path.read_bytes()
    spoil(path, damage)

    assert Client().get(link(image)).content == whole
    spoil(path, damage)
    again = api.post("/v1/jobs", fields).json()
    assert (again["status"], again["cache"]) == ("succeeded", "hit")
    assert Client().get(again["images"][0]["url"]).content == whole


@pytest.mark.parametrize("damage", ("empty", "same size", "removed"))
def test_an_image_without_any_intact_file_is_gone_and_computed_again(settings, damage):
    api = API()
    fields = {"variant": DEFAULT_SLUG, "seed": 7}
    image = made_by(api, fields)
    for name in (image.file, image.master):
        spoil(settings.MEDIA_ROOT / name, damage)

    problem(Client().get(link(image)), 410, "image_gone")
    again = api.post("/v1/jobs", fields).json()
    assert again["status"] == "queued"
    fake_worker.make_pictures()
    assert Client().get(link(image)).status_code == 200


def spoil(path: Path, damage: str) -> None:
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else bytes(path.stat().st_size))

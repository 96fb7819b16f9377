"""Access to the pages, content security policy, error pages."""

import logging
import re
from collections.abc import Iterator

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.urls import get_resolver, resolve, reverse

from generation.images import storage
from generation.models import Job
from generation.page import responses, sharing
from tests.client import API, problem
from tests.factories import make_image, make_job, make_release, make_user, make_variant
from tests.page_client import Person, html, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

MODULE = "generation.page."


POSTED = ("result-cancel", "result-delete", "picture-mark", "picture-delete")


@pytest.fixture
def job() -> Job:
    job = make_job(owner=make_user(username="somebody"), status="succeeded", via="page")
    make_image(job=job)
    return job


def addresses(job: Job) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of all pages, with this job and its picture."""
    image = job.images.get()
    values = {
        "job_id": job.id,
        "image_id": image.id,
        "token": sharing.path(image.id).split("/")[-1],
    }
    for part in get_resolver().url_patterns:
        for pattern in getattr(part, "url_patterns", [part]):
            callback = getattr(pattern, "callback", None)
            if callback is not None and callback.__module__.startswith(MODULE):
                named = {name: values[name] for name in pattern.pattern.converters}
                yield pattern.name, reverse(pattern.name, kwargs=named)


# --- login and ownership --------------------------------------------------------------------------
def test_the_root_is_a_login_with_working_links():
    page = Client().get("/")

    assert page.status_code == 200 and 'name="password"' in html(page)
    for path in ("/admin/", "/v1/docs", "/v1/openapi.json", "/health/ready"):
        assert f'href="{path}"' in html(page)
        assert Client().get(path).status_code in (200, 302, 503)


def test_every_other_page_redirects_anonymous_visitors_to_the_login(job):
    paths_by_name = dict(addresses(job))
    assert len(paths_by_name) >= 10
    for name in paths_by_name.keys() - {"home", "login", "logout", "result-events", "shared"}:
        answer = Client().get(paths_by_name[name])
        assert (answer.status_code, answer["Location"]) == (
            302,
            f"/login?next={paths_by_name[name]}",
        ), name
    assert Client().get(paths_by_name["result-events"]).status_code == 403


def test_a_part_of_a_page_sends_the_whole_page_to_the_login():
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/gallery?variant=x"}
    answer = Client(headers=headers).get("/choices")
    assert (answer.status_code, answer["HX-Redirect"]) == (
        200,
        "/login?next=/gallery%3Fvariant%3Dx",
    )
    for wrong in ("http://elsewhere.example/", "http://[", "x"):
        answer = Client(headers={**headers, "HX-Current-URL": wrong}).get("/choices")
        assert answer["HX-Redirect"].startswith("/login?next=")
        assert "elsewhere" not in answer["HX-Redirect"]


def test_logging_in_redirects_to_the_next_page_and_logging_out_ends_the_session():
    make_user(username="somebody", password="a good password")
    client = Client(enforce_csrf_checks=True)
    page = client.get("/login", {"next": "/gallery"})
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', html(page))
    assert token and 'name="next" value="/gallery"' in html(page)
    form = {"username": "somebody", "csrfmiddlewaretoken": token[1], "next": "/gallery"}

    wrong = client.post("/login", {**form, "password": "no"})
    assert wrong.status_code == 200 and "The user name or the password is wrong." in words(wrong)
    assert re.search(
        r'type="password"[^>]* autofocus', html(wrong)
    )  # the field that must be typed again
    assert 'value="somebody"' in html(wrong)  # the typed name is kept

    answer = client.post("/login", {**form, "password": "a good password"})
    assert (answer.status_code, answer["Location"]) == (302, "/gallery")
    assert client.get("/login")["Location"] == "/"
    assert client.get("/logout").status_code == 405

    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', html(client.get("/gallery")))
    assert token and client.post("/logout", {"csrfmiddlewaretoken": token[1]})["Location"] == "/"
    assert client.get("/gallery").status_code == 302


@pytest.mark.parametrize(
    "there", ["/login", "/login?next=/login", "//elsewhere.example", "http://x", "\\\\x", "/\u202e"]
)
def test_a_login_redirects_to_no_other_host_and_never_in_a_loop(there: str):
    answer = Person().get("/login", {"next": there})
    assert (answer.status_code, answer["Location"].startswith("/")) == (302, True)
    assert not answer["Location"].startswith(("//", "/login"))


def test_a_button_pressed_after_the_session_ended_leads_to_its_job_or_picture(job):
    client, image = Client(), job.images.get()
    for name, path in addresses(job):
        if name in POSTED:
            answer = client.post(path)
            assert answer["Location"] == f"/login?next={path}"
            there = Person(username=name).get(path)["Location"]
            assert there == (f"/jobs/{job.id}" if "jobs" in path else f"/pictures/{image.id}")


def test_a_link_with_settings_of_the_form_is_kept_by_the_login():
    make_user(username="somebody", password="a good password")
    make_variant(slug="x")
    client, link = Client(), "/?variant=x&seed=7"
    page = client.get(link, follow=True)
    form = {"username": "somebody", "password": "a good password"}
    answer = client.post("/login", form | {"next": page.context["next"]})
    assert answer["Location"] == link


def test_a_deactivated_account_sees_nothing():
    person = Person()
    person.user.is_active = False
    person.user.save()
    assert person.get("/gallery").status_code == 302


def test_jobs_and_pictures_of_another_owner_are_not_found(job):
    person = Person()
    for name, path in addresses(job):
        if "<" in resolve(path).route and name != "shared":
            method = person.post if name in POSTED else person.get
            assert method(path).status_code == 404, name
    job.refresh_from_db()
    assert (job.status, job.purged_at) == ("succeeded", None)
    assert person.get("/gallery", {"before": str(job.id)}).status_code == 404


def test_the_stream_of_the_page_is_that_of_the_api_which_still_requires_a_key(job):
    person = Person(username="somebody")
    own = person.get(f"/jobs/{job.id}/events")
    api = API(owner=job.owner).get(f"/v1/jobs/{job.id}/events")
    assert own["Content-Type"] == api["Content-Type"] == "text/event-stream"
    assert own.content.count(b"event: ") == api.content.count(b"event: ") == 2
    problem(person.get(f"/v1/jobs/{job.id}/events"), 401, "not_authenticated")
    assert API(owner=job.owner).get(f"/jobs/{job.id}/events").status_code == 403


# --- what a browser may load and keep --------------------------------------------------------------
def test_pages_load_only_own_files_and_nothing_inline(job):
    make_release()
    make_variant(text="a <b>bold</b> vase", tags=["<i>"])
    person = Person(username="somebody")
    for name, path in addresses(job):
        answer = Client().get("/login") if name == "login" else person.get(path)
        if answer.status_code != 200 or name == "result-events":
            continue
        assert "default-src 'self'" in answer["Content-Security-Policy"], name
        assert "private" in answer["Cache-Control"] and "no-cache" in answer["Cache-Control"], name
        page = answer.content.decode()
        assert not re.search(r"\s(style|on\w+)=", page), name
        assert not re.search(r"<(script|style)>", page), name
        assert "<b>bold" not in page and "<i>" not in page
        loaded = re.findall(r'<(?:script|link|img|source|iframe)[^>]*?(?:src|href)="([^"]+)"', page)
        assert all(address.startswith("/") and address[1] != "/" for address in loaded), loaded


def test_files_of_the_page_are_served(job):
    for address in set(re.findall(r'"(/static/[^"]+)"', html(Person().get("/")))):
        answer = Client().get(address)
        assert answer.status_code == 200, address
        assert b"http://" not in b"".join(answer).replace(b"http://www.w3.org", b"")[:2000]


def test_pictures_may_come_from_the_object_store(bucket, object_store_url: str, settings):
    assert (
        f"img-src 'self' data: blob: {object_store_url};"
        in Person().get("/")["Content-Security-Policy"]
    )
    settings.S3_DELIVERY = "serve"
    assert object_store_url not in Person().get("/")["Content-Security-Policy"]


def test_without_an_object_store_pictures_come_from_this_host_only():
    assert "img-src 'self' data: blob:;" in Person().get("/")["Content-Security-Policy"]
    assert responses.image_origin() == "" and storage.link("x", seconds=1) is None


# --- refusals -------------------------------------------------------------------------------------
def test_a_form_without_the_token_of_its_page_is_refused_as_a_page(job):
    client = Client(enforce_csrf_checks=True)
    client.force_login(job.owner)
    for name, path in addresses(job):
        if name in ("home", "logout", "login", "result-cancel", "result-delete"):
            answer = client.post(path, {"text": "a vase"})
            assert answer.status_code == 403, name
            assert answer["Content-Type"].startswith("text/html") and "out of date" in words(answer)
    assert Job.objects.count() == 1
    part = client.post("/", {"text": "a vase"}, headers={"HX-Request": "true"})
    assert part.status_code == 403 and "out of date" in part["HX-Trigger"]


def test_a_refusal_is_a_page_with_the_message_of_the_api():
    answer = Person().post("/", {"colour": "red"})
    assert answer.status_code == 400 and answer["Content-Type"].startswith("text/html")
    assert "colour: Unknown parameter." in words(answer)
    assert answer["Content-Security-Policy"]


def test_too_many_files_or_values_are_refused_with_their_limit(settings):
    files = [SimpleUploadedFile(f"{number}.png", b"x") for number in range(101)]
    answer = Person().post("/", {"file": files}, Accept="text/html")
    assert answer.status_code == 400 and "at most 100 files. Send them" in words(answer)
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 2
    answer = Person(username="other").post("/", {"text": ["a", "b", "c"]}, Accept="text/html")
    assert answer.status_code == 400 and "at most 2 values" in words(answer)


def test_foreign_query_parameters_are_ignored(job):
    person = Person(username="somebody")
    make_variant(text="a vase", slug="a-vase")
    pages = ("/v1/problems?", "/v1/problems/queue_full?", "/v1/guide?", f"/jobs/{job.id}?")
    for path in ("/?variant=a-vase&", "/gallery?", "/login?", *pages):
        answer = person.client.get(path + "utm_source=mail&fbclid=x&utm_source=chat", follow=True)
        assert answer.status_code == 200, path
    found = person.get("/choices?text=vase&utm_source=mail", htmx=True)
    assert found.status_code == 200 and "a vase" in words(found)
    now = person.get(f"/jobs/{job.id}/now?whole=true&gclid=1", htmx=True)
    assert now.status_code == 200
    assert 'value="a-vase"' in html(person.get("/?variant=a-vase&utm_source=mail"))


def test_a_url_with_a_trailing_slash_redirects_to_the_page(job):
    browser = {"Accept": "text/html"}
    person = Person(username="somebody")
    answer = person.get("/gallery/?variant=x", **browser)
    assert (answer.status_code, answer["Location"]) == (301, "/gallery?variant=x")
    assert person.get(f"/jobs/{job.id}/", **browser)["Location"] == f"/jobs/{job.id}"
    assert person.get("/nowhere/", **browser).status_code == 404
    problem(API().get("/v1/jobs/"), 404, "not_found")


def test_an_error_page_keeps_the_navigation_of_a_logged_in_person(job):
    person = Person(username="somebody")
    for path, status in (
        ("/nowhere", 404),
        ("/gallery?variant=no", 404),
        ("/gallery?before=x", 400),
    ):
        page = person.get(path, Accept="text/html")
        assert page.status_code == status, path
        assert "Gallery" in words(page) and "somebody Log out" in words(page)
    assert "Log out" not in words(Client(headers={"Accept": "text/html"}).get("/nowhere"))


@pytest.fixture
def database_away(transactional_db) -> Iterator[Person]:
    """A logged-in person whose next request finds no PostgreSQL."""
    person = Person(username="admin", is_superuser=True)
    connection.close()
    place = {name: connection.settings_dict[name] for name in ("HOST", "PORT")}
    connection.settings_dict.update(HOST="127.0.0.1", PORT="1")
    yield person
    connection.close()
    connection.settings_dict.update(place)


@pytest.mark.parametrize("path", ["/", "/gallery", "/admin/", "/admin/generation/job/", "/choices"])
def test_an_unreachable_database_is_reported_on_the_page(database_away, path):
    for headers in ({"Accept": "text/html"}, {}):
        answer = database_away.get(path, **headers)
        assert answer.status_code == 503 and int(answer["Retry-After"]) >= 1
        assert "The database does not answer" in answer.content.decode()
    page = database_away.get(path, Accept="text/html")
    assert f'href="{path}"' in html(page) and "Try again" in words(page)


def test_an_unreachable_database_is_reported_by_parts_of_pages_and_by_the_login(database_away):
    part = database_away.get("/choices?text=vase", htmx=True)
    assert part.status_code == 503 and "does not answer" in part["HX-Trigger"]
    form = {"username": "admin", "password": "a good password"}
    anonymous = Client(raise_request_exception=False, headers={"Accept": "text/html"})
    answer = anonymous.post("/login", form)
    assert answer.status_code == 503 and "Go back and try again" in words(answer)


NASTY = [
    "text=%00", "text=%ff", "text=%ed%a0%80", "text=" + "x" * 5000, "text=%E2%80%AE", "text=%F0%9F%92%A5",
    "variant=%00", "variant=" + "x" * 500, "variant=../..", "variant=%25", "tag=%00", "tag=", "tag=,{}",
    "tag=" + "x" * 300, "&".join(f"tag=t{n}" for n in range(200)), "tag[0]=x", "seed=%00", "seed=-1",
    "seed=" + "9" * 5000, "seed=1e9", "seed=%D9%A3", "n=0", "n=-1", "n=99999999999999999999", "n=x", "size=x",
    "size=0x0", "size=99999x99999", "output_format=gif", "model=%00", "model=%3Cscript%3E", "model=" + "x" * 5000,
    "x=1", "=", "&&", "%", "look=1", "looked=%00", "csrfmiddlewaretoken=", "before=x", "before=%00",
    "before=00000000-0000-0000-0000-000000000000", "was=x", "whole=x", "whole=true", "next=%00", "next=//x",
    "previews=x", "last_event_id=x", "username=%00&password=%00", "username=" + "x" * 5000,
]  # fmt: skip
HEADERS = [
    {}, {"HX-Request": "true"}, {"HX-Request": "true", "HX-Trigger": "create"},
    {"HX-Request": "true", "HX-Current-URL": "http://["},
    {"HX-Request": "true", "HX-Current-URL": "%00", "HX-Current-URL-URI-AutoEncoded": "true"}, {"Accept": "\xff"},
    {"Last-Event-ID": "\xff"},
]  # fmt: skip

CONTENT_TYPES = [
    "application/json",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "",
    "text/plain; charset=zlib",
]


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the log, which would get hundreds of refusals."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_an_unknown_url_is_a_page_for_browsers_and_a_problem_for_programs():
    page = Client(headers={"Accept": "text/html,*/*"}).get("/jobs/x")
    assert page.status_code == 404 and "No page or resource has the path /jobs/x." in words(page)
    assert page["Content-Security-Policy"]
    problem(Client().get("/jobs/x"), 404, "not_found")
    problem(Client(headers={"Accept": "text/html"}).get("/v1/x"), 404, "not_found")


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_no_request_to_a_page_causes_a_server_error(job, quiet, share: int):
    """Send every share-th request to each page, shifted by one per page."""
    make_release()
    make_variant(text="a vase", tags=["x"])
    client = Person(username="somebody").client
    paths_by_name = dict(addresses(job))
    form = "application/x-www-form-urlencoded"
    pages = ("home", "choices", "gallery", "result-now", "result-events", "login")
    for number, name in enumerate(pages):
        headers = {"HX-Request": "true"} if name in ("choices", "result-now") else {}
        for query in NASTY[number % share :: share]:
            answer = client.get(f"{paths_by_name[name]}?{query}", headers=headers)
            assert answer.status_code < 500, (name, query)
    anonymous = Client(raise_request_exception=False)
    for number, (name, who) in enumerate((("home", client), ("login", anonymous))):
        for query in NASTY[number % share :: share]:
            answer = who.generic("POST", paths_by_name[name], query, form)
            assert answer.status_code < 500, (name, query)
    odd = ["/jobs/x", f"/jobs/{'0' * 32}", "/gallery/", "//gallery", "/jobs/%00", "/login/"]
    paths = [path for name, path in paths_by_name.items() if name != "logout"] + odd
    for number, path in enumerate(paths):
        for headers in HEADERS[number % share :: share]:
            assert client.get(path, headers=headers).status_code < 500, (path, headers)
            assert client.post(path, headers=headers).status_code < 500, (path, headers)
        for kind in CONTENT_TYPES[number % share :: share]:
            assert client.generic("POST", path, b"\xff{", kind).status_code < 500, (path, kind)
        methods = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE")
        for method in methods[number % share :: share]:
            assert client.generic(method, path).status_code < 500, (path, method)

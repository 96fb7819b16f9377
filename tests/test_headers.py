"""Headers for the security of browsers, on every answer: pages, API, admin, documentation, and the shell's own."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from django.contrib.auth import get_user_model

from tests.acceptance import browser
from tests.factories import make_image, make_job
from tests.web import Web

pytestmark = pytest.mark.django_db(transaction=True)
LISTS = re.compile(r"/admin/[a-z_]+/[a-z]+/(add/)?")
POLICY = "content-security-policy"
PATHS = (
    "/", "/login", "/gallery", "/nothing", "/admin/login/", "/admin/nothing", "/v1/docs", "/v1/openapi.json",
    "/v1/problems", "/v1/jobs", "/v1/nothing", "/health/ready", "/metrics", "/static/generation/favicon.svg",
)  # fmt: skip


@pytest.fixture(scope="module")
def tls_web(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    """A web process behind a proxy that terminates TLS."""
    with django_db_blocker.unblock():
        web = Web(tmp_path_factory.mktemp("web"), BEHIND_TLS_PROXY="true", HSTS_SECONDS="7")
    yield web
    web.stop()


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers(tls_web: Web, path: str):
    answer = httpx.get(f"{tls_web.url}{path}", headers={"X-Forwarded-Proto": "https"}, timeout=60)

    rules = dict(rule.split(" ", 1) for rule in answer.headers[POLICY].split("; "))
    assert rules["default-src"] in ("'self'", "'none'")
    assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert "'unsafe-inline'" not in rules.get("script-src", "")
    assert "'unsafe-eval'" not in rules.get("script-src", "") or path.startswith("/admin/")
    assert answer.headers["x-content-type-options"] == "nosniff"
    if not path.startswith("/static/"):  # headers for older browsers, on pages only
        assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["strict-transport-security"] == "max-age=7"


def test_without_tls_there_is_no_strict_transport_security(web: Web):
    assert "strict-transport-security" not in web.http.get("/login").headers


@pytest.mark.parametrize("name", ["X_Forwarded_Proto", "X-Forwarded_Proto", "x_forwarded_proto"])
@pytest.mark.parametrize("also", [None, "http"])
def test_a_name_with_an_underscore_is_no_header_of_the_proxy(
    tls_web: Web, name: str, also: str | None
):
    connection = HTTPConnection("127.0.0.1", tls_web.port, timeout=60)
    connection.putrequest("GET", "/login")
    connection.putheader(name, "https")
    if also:
        connection.putheader("X-Forwarded-Proto", also)
    connection.endheaders()

    answer = connection.getresponse()

    assert (answer.status, answer.getheader("Location")) == (
        301,
        f"https://127.0.0.1:{tls_web.port}/login",
    )
    connection.close()


# --- in a browser ---------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.usefixtures("deployed_hashers")
@pytest.mark.skipif(browser.installed() is None, reason="no Chromium is installed")
def test_the_admin_and_the_documentation_work_under_their_policies(web: Web, tmp_path: Path):
    get_user_model().objects.create_superuser("root", password="a good password")
    job = make_job(status="succeeded")
    make_image(job=job)
    with ExitStack() as stack:
        visitor = browser.Visitor(stack.enter_context(browser.chromium()), web.url)
        page = visitor.page
        page.goto("/v1/docs")
        page.locator(".opblock").first.wait_for()
        page.goto("/admin/")
        page.fill("input[name=username]", "root")
        page.fill("input[name=password]", "a good password")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{web.url}/admin/")
        paths = [
            f"generation/job/{job.pk}/change/", f"generation/job/{job.pk}/delete/", "password_change/",
            "generation/promptvariant/import/", "generation/promptvariant/export/",
        ]  # fmt: skip
        to_visit = [f"/admin/{path}" for path in paths]
        visited: set[str] = set()
        while to_visit:  # the lists of all models, and their forms to add one
            path = to_visit.pop()
            visited.add(path)
            page.goto(path)
            page.wait_for_load_state("networkidle")
            links = page.eval_on_selector_all("a", "all => all.map(a => a.pathname)")
            known = visited.union(to_visit)
            to_visit += {link for link in links if LISTS.fullmatch(link)} - known
        assert len(visited) > 30
        assert [text for text in visitor.errors if "Content Security Policy" in text] == []

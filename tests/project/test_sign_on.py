"""Single sign-on by a header of the proxy: off by default, known accounts only."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as configured
from django.test import Client

from project import sign_on
from tests.factories import make_user
from tests.web import Web

AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"


@pytest.fixture
def enabled(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    at = configured.MIDDLEWARE.index(AUTHENTICATION) + 1
    monkeypatch.setattr(sign_on.ProxyLogin, "header", "HTTP_REMOTE_USER")
    settings.MIDDLEWARE = [
        *configured.MIDDLEWARE[:at],
        "project.sign_on.ProxyLogin",
        *configured.MIDDLEWARE[at:],
    ]
    settings.AUTHENTICATION_BACKENDS = [
        "project.sign_on.KnownAccounts",
        *configured.AUTHENTICATION_BACKENDS,
    ]


@pytest.mark.django_db
def test_without_the_setting_the_header_is_ignored():
    make_user(username="anna", is_staff=True, is_superuser=True)
    assert Client().get("/admin/", headers={"Remote-User": "anna"}).status_code == 302


@pytest.mark.django_db
def test_known_active_accounts_are_logged_in_and_out_with_the_header(enabled):
    make_user(username="anna", is_staff=True, is_superuser=True)
    gone = make_user(username="gone", is_staff=True, is_superuser=True)
    gone.is_active = False
    gone.save()
    for name in ("stranger", "gone", ""):
        assert Client().get("/admin/", headers={"Remote-User": name}).status_code == 302
    client = Client()
    assert client.get("/admin/", headers={"Remote-User": "anna"}).status_code == 200
    assert client.get("/admin/").status_code == 302  # the session alone is not enough
    assert client.get("/v1/me", headers={"Remote-User": "anna"}).status_code == 401  # API: keys


@pytest.mark.django_db
def test_a_password_still_works_without_the_header_of_the_proxy(enabled):
    make_user(username="admin", password="a good password", is_staff=True, is_superuser=True)
    client = Client()
    assert client.login(username="admin", password="a good password")
    assert client.get("/admin/").status_code == 200


@pytest.fixture
def proxied(tmp_path: Path, transactional_db, redis_server) -> Iterator[Web]:
    web = Web(tmp_path, BEHIND_TLS_PROXY="true", LOGIN_HEADER="Remote-User")
    yield web
    web.stop()


@pytest.mark.slow
def test_the_web_process_accepts_the_header_in_no_other_spelling(proxied: Web):
    make_user(username="anna", is_staff=True, is_superuser=True)

    def status(**headers: str) -> int:
        proxied.http.cookies.clear()
        sent = {"X-Forwarded-Proto": "https"} | headers
        return proxied.http.get("/admin/", headers=sent).status_code

    assert status(**{"Remote-User": "anna"}) == 200
    assert status(**{"Remote_User": "anna"}) == status(**{"X-Remote-User": "anna"}) == 302

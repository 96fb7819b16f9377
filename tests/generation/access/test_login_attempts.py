"""Limits of failed logins: by account, by address, with Redis and without; on the page and in the admin."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from generation.access import login_attempts
from generation.infra import redis_client
from tests.factories import make_user

pytestmark = pytest.mark.django_db
PAGES = ("/login", "/admin/login/")
PASSWORD = "a good password"


@pytest.fixture(autouse=True)
def no_attempts_yet(redis_server, monkeypatch):
    another_process(monkeypatch)


def another_process(monkeypatch) -> None:
    monkeypatch.setattr(login_attempts, "_here", FixedWindowRateLimiter(MemoryStorage()))


@pytest.fixture
def no_redis(settings, monkeypatch):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)


@pytest.fixture
def person():
    return get_user_model().objects.create_user("ann", password=PASSWORD, is_staff=True)


def log_in(page: str, name: str = "ann", password: str = "wrong", address: str = "192.0.2.1"):
    form = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post(page, form)


def failures(page: str, count: int, **who: str) -> None:
    for _ in range(count):
        assert log_in(page, **who).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_ten_failures_lock_an_account_for_their_address(person, page: str):
    failures(page, 10)

    refused = log_in(page, password=PASSWORD)

    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 15 * 60
    assert "Try again in" in refused.content.decode()
    assert log_in(page, password=PASSWORD, address="192.0.2.2").status_code == 302


def test_both_pages_share_the_limit_and_names_are_compared_ignoring_case_and_spaces(person):
    failures("/login", 4)
    failures("/admin/login/", 3, name="ANN")
    failures("/login", 3, name="\u2003ann ")

    assert log_in("/login").status_code == 429


def test_a_success_resets_the_count_of_failures(person):
    for _ in range(3):
        failures("/login", 9)
        assert log_in("/login", password=PASSWORD).status_code == 302


@pytest.fixture
def colleague() -> Client:
    """Log in another user at the address of the failures."""
    client = Client(REMOTE_ADDR="192.0.2.1")
    client.force_login(make_user(username="ben"))
    return client


def test_only_the_right_password_resets_the_count_of_failures(person, colleague):
    failures("/login", 10)

    assert colleague.post("/login", {"username": "ann", "password": "wrong"}).status_code == 429
    assert log_in("/login").status_code == 429


def test_a_logged_in_user_needs_the_password_of_another_account(person, colleague):
    failures("/login", 9)

    assert colleague.post("/login", {"username": "ann", "password": "wrong"}).status_code == 200
    assert log_in("/login").status_code == 429


def test_an_address_that_tries_many_accounts_is_refused(person):
    for number in range(49):
        login_attempts.record_failure(f"user-{number}", "192.0.2.1")
    failures("/login", 1, name="user-49")

    assert log_in("/login", password=PASSWORD).status_code == 429
    assert log_in("/login", password=PASSWORD, address="192.0.2.2").status_code == 302


def test_an_account_that_many_addresses_try_is_locked(person):
    for number in range(199):
        login_attempts.record_failure("ann", f"198.51.100.{number}")
    failures("/login", 1, address="198.51.100.199")

    assert log_in("/login", password=PASSWORD).status_code == 429


def test_addresses_of_one_network_share_a_limit(person):
    for number in range(10):
        failures("/login", 1, address=f"2001:db8::{number:x}")

    assert log_in("/login", address="2001:db8::ffff").status_code == 429
    assert log_in("/login", address="2001:db8:0:1::1").status_code == 200
    assert log_in("/login", address="not an address").status_code == 200


def test_all_processes_share_the_counts(person, monkeypatch):
    failures("/login", 6)
    another_process(monkeypatch)
    failures("/login", 4)

    assert log_in("/login").status_code == 429


def test_without_redis_each_process_keeps_its_own_counts(person, no_redis):
    failures("/login", 10)

    assert log_in("/login", password=PASSWORD).status_code == 429


def test_typed_names_are_not_stored(person, redis_server):
    failures("/login", 1, name="my secret password")

    assert all("secret" not in key for key in redis_server.keys("*"))

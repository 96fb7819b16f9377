"""manage.py apikey: a key is shown once, works, is listed without its secret, and ends when revoked."""

import io

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from generation.models import APIKey
from tests.people import make_user

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("apikey", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue().strip()


def status(plain: str) -> int:
    return Client().get("/v1/releases", headers={"Authorization": f"Bearer {plain}"}).status_code


def test_a_created_key_works_until_it_is_revoked():
    make_user(username="shop")
    plain = run("create", "--owner", "shop", "--name", "shop backend")

    assert status(plain) == 200
    assert plain not in run("list")
    assert "shop backend" in run("list")

    run("revoke", plain.rsplit("_", 1)[0] if plain.count("_") == 2 else APIKey.prefix_of(plain))

    assert status(plain) == 401
    assert "revoked" in run("list")


def test_a_key_has_only_the_scopes_that_were_given():
    make_user(username="shop")

    plain = run(
        "create", "--owner", "shop", "--name", "x", "--scopes", "jobs:read", "variants:read"
    )

    assert APIKey.objects.get().scopes == ["jobs:read", "variants:read"]
    assert status(plain) == 403


def test_mistakes_are_said():
    with pytest.raises(CommandError, match="no user nobody"):
        run("create", "--owner", "nobody", "--name", "x")
    with pytest.raises(CommandError, match="no key rt_0"):
        run("revoke", "rt_0")
    make_user(username="shop")
    with pytest.raises(CommandError, match="invalid choice"):
        run("create", "--owner", "shop", "--name", "x", "--scopes", "everything")
    with pytest.raises(CommandError, match="at least 1"):
        run("create", "--owner", "shop", "--name", "x", "--days", "0")

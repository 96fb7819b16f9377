"""`manage.py apikey`: a key is shown once, works, is limited and rotated, and is invalid once revoked."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from generation.models import APIKey
from tests.factories import make_key, make_user, permit

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("apikey", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue().strip()


def status(plain: str) -> int:
    return Client().get("/v1/releases", headers={"Authorization": f"Bearer {plain}"}).status_code


def test_a_created_key_works_until_it_is_revoked():
    permit(make_user(username="shop"), ["releases:read"])
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


def test_a_key_gets_no_scope_beyond_the_permissions_of_its_owner():
    owner = make_user(username="shop")
    run("create", "--owner", "shop", "--name", "x")
    assert APIKey.objects.get().scopes == ["jobs:write", "jobs:read", "variants:read"]

    command = ("create", "--owner", "shop", "--name", "y", "--scopes", "releases:read")
    with pytest.raises(CommandError, match=r"releases:read needs generation\.view_release and"):
        run(*command)
    permit(owner, ["releases:read"])
    run(*command)
    assert APIKey.objects.get(name="y").scopes == ["releases:read"]


def test_limits_are_given_changed_and_listed():
    make_user(username="shop")
    run("create", "--owner", "shop", "--name", "x", "--weight", "2", "--images-per-day", "500")
    key = APIKey.objects.get()
    assert (key.weight, key.images_per_day, key.requests_per_minute) == (2, 500, None)

    printed = run("limit", key.prefix, "--images-per-day", "none", "--requests-per-minute", "60")

    key.refresh_from_db()
    assert (key.weight, key.images_per_day, key.requests_per_minute) == (2, None, 60)
    assert printed == f"{key.prefix}: weight 2, 60 requests per minute."
    assert "active" in run("list") and "60 requests per minute" in run("list")


def test_a_rotated_key_is_replaced_and_ends_after_the_grace():
    key, plain = make_key(name="shop", scopes=["releases:read"])

    new = run("rotate", key.prefix, "--grace", "12h")

    assert status(new) == status(plain) == 200
    key.refresh_from_db()
    assert timedelta(hours=11) < key.expires_at - timezone.now() < timedelta(hours=12)
    listed = run("list")
    assert (
        f"{key.expires_at:until %Y-%m-%d %H:%M} UTC, replaced by {APIKey.prefix_of(new)}" in listed
    )
    run("rotate", new, "--grace", "0m")
    assert status(new) == 401
    with pytest.raises(CommandError, match="already rotated"):
        run("rotate", key.prefix)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weight", "0"),
        ("--weight", "none"),
        ("--weight", "101"),
        ("--images-per-day", "-1"),
        ("--images-per-day", "many"),
        ("--retention-days", "99999999999"),
    ],
)
def test_an_invalid_limit_is_refused(arguments):
    make_user(username="shop")
    with pytest.raises(CommandError, match=arguments[0]):
        run("create", "--owner", "shop", "--name", "x", *arguments)
    assert not APIKey.objects.exists()


def test_wrong_arguments_are_reported():
    with pytest.raises(CommandError, match="no user nobody"):
        run("create", "--owner", "nobody", "--name", "x")
    with pytest.raises(CommandError, match="no key rt_0"):
        run("revoke", "rt_0")
    make_user(username="shop")
    with pytest.raises(CommandError, match="invalid choice"):
        run("create", "--owner", "shop", "--name", "x", "--scopes", "everything")
    for days in ("0", "99999999"):
        with pytest.raises(CommandError, match="--days must be from 1 to 36500"):
            run("create", "--owner", "shop", "--name", "x", "--days", days)
    key, _ = make_key()
    with pytest.raises(CommandError, match="at least one of --weight"):
        run("limit", key.prefix)
    with pytest.raises(CommandError, match="such as 7d"):
        run("rotate", key.prefix, "--grace", "soon")

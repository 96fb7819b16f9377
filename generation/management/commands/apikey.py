"""`manage.py apikey create | list | limit | rotate | revoke`: API keys from the shell."""

import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import models
from django.utils import timezone
from django.utils.formats import date_format

from generation.access import keys
from generation.errors import GenerationError
from generation.models import APIKey

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
MAX_DAYS = 36_500
NO_VALUE = "none"
PREFIX = "the part before the second underscore, such as rt_1a2b3c4d"


def span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,4})([mhd])", text)
    if not match:
        raise ArgumentTypeError(f"{text!r}: give a number followed by m, h or d, such as 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def _limits() -> dict[str, models.Field]:
    fields = {field.name: field for field in APIKey._meta.concrete_fields}
    return {name: fields[name] for name in keys.LIMITS}


def _value_of(field: models.Field) -> Callable[[str], int | None]:
    """Return an argparse type that validates by the field."""

    def read(text: str) -> int | None:
        if text == NO_VALUE and field.null:
            return None
        try:
            return field.clean(text, None)
        except ValidationError as error:
            raise ArgumentTypeError(f"{text!r}: {' '.join(error.messages)}") from error

    return read


def _scopes(wanted: list[str] | None, owner: Any) -> list[str]:
    """Return the scopes of a new key. Raises CommandError if they exceed the permissions of its owner."""
    covered = keys.scopes_of(owner)
    for scope in wanted or ():
        if scope not in covered:
            needed = " and ".join(settings.SCOPE_PERMISSIONS[scope])
            raise CommandError(f"The scope {scope} needs {needed}: give {owner} these permissions.")
    return wanted or covered


class Command(BaseCommand):
    help = "Create, list, limit, rotate or revoke API keys."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="create a key and print it once")
        create.add_argument(
            "--owner", required=True, metavar="USERNAME", help="user who owns its jobs"
        )
        create.add_argument("--name", required=True, help="purpose of the key")
        create.add_argument(
            "--scopes",
            nargs="+",
            choices=APIKey.Scope.values,
            metavar="SCOPE",
            help=f"one or more of {', '.join(APIKey.Scope.values)}; default: all that the owner's permissions cover",
        )
        create.add_argument("--days", type=int, help="days until it expires; default: never")
        self.add_limits(create)
        actions.add_parser("list", help="list all keys with state and limits")
        limit = actions.add_parser("limit", help="change the limits of a key")
        limit.add_argument("prefix", help=PREFIX)
        self.add_limits(limit)
        rotate = actions.add_parser(
            "rotate",
            help="replace a key by a new one with the same scopes and limits, and print that once",
        )
        rotate.add_argument("prefix", help=PREFIX)
        rotate.add_argument(
            "--grace",
            type=span,
            default=keys.GRACE,
            metavar="SPAN",
            help=f"how long the old key remains valid, such as 12h; default: {keys.GRACE.days}d",
        )
        revoke = actions.add_parser("revoke", help="revoke a key immediately")
        revoke.add_argument("prefix", help=PREFIX)

    def add_limits(self, parser: ArgumentParser) -> None:
        for name, field in _limits().items():
            words = str(field.help_text).replace("Empty:", f"{NO_VALUE}:").replace("%", "%%")
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                dest=name,
                type=_value_of(field),
                default=SUPPRESS,
                metavar="N",
                help=words,
            )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, options["action"])(options)
        except GenerationError as error:
            raise CommandError(error.detail) from error

    def create(self, options: dict[str, Any]) -> None:
        owner = get_user_model().objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(
                f"There is no user {options['owner']}. Create one in the admin or with createsuperuser."
            )
        if options["days"] is not None and not 1 <= options["days"] <= MAX_DAYS:
            raise CommandError(f"--days must be from 1 to {MAX_DAYS}.")
        expires_at = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        _, plain = keys.issue(
            owner,
            options["name"],
            _scopes(options["scopes"], owner),
            expires_at=expires_at,
            limits=_given(options),
        )
        self.show_key(plain)

    def show_key(self, plain: str) -> None:
        self.stderr.write("The key is shown only now:")
        self.stdout.write(plain)

    def list(self, options: dict[str, Any]) -> None:
        for key in APIKey.objects.select_related("owner", "replaced_by"):
            state = key.state
            if state == APIKey.ACTIVE and key.expires_at:
                state += f" until {_in_words(key.expires_at)}"
            if key.replaced_by:
                state += f", replaced by {key.replaced_by.prefix}"
            used = _in_words(key.last_used_at) if key.last_used_at else "never used"
            limits = ", ".join(keys.limits_in_words(key)) or "no limits"
            scopes = ",".join(key.scopes)
            self.stdout.write(
                "\t".join([key.prefix, state, str(key.owner), key.name, scopes, limits, used])
            )

    def limit(self, options: dict[str, Any]) -> None:
        key, limits = _find(options["prefix"]), _given(options)
        if not limits:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in keys.LIMITS)
            raise CommandError(f"Give at least one of {names}.")
        keys.set_limits(key, limits)
        self.stdout.write(f"{key.prefix}: {', '.join(keys.limits_in_words(key)) or 'no limits'}.")

    def rotate(self, options: dict[str, Any]) -> None:
        old = _find(options["prefix"])
        _, plain = keys.rotate(old, grace=options["grace"])
        self.stderr.write(f"{old.prefix} remains valid until {_in_words(old.expires_at)}.")
        self.show_key(plain)

    def revoke(self, options: dict[str, Any]) -> None:
        key = _find(options["prefix"])
        keys.revoke(key)
        self.stdout.write(f"{key.prefix} was revoked.")


def _given(options: dict[str, Any]) -> dict[str, int | None]:
    return {name: options[name] for name in keys.LIMITS if name in options}


def _find(prefix: str) -> APIKey:
    prefix = APIKey.prefix_of(prefix)
    key = APIKey.objects.select_related("owner").filter(prefix=prefix).first()
    if key is None:
        raise CommandError(f"There is no key {prefix}.")
    return key


def _in_words(moment: datetime | None) -> str:
    return date_format(moment, "DATETIME_FORMAT") if moment else "never"

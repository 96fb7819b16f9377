"""`manage.py apikey create | list | revoke`: keys of the API without the admin."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from generation.models import APIKey


class Command(BaseCommand):
    help = "Create, list or revoke keys of the API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a key and print it, once")
        create.add_argument(
            "--owner", required=True, metavar="USERNAME", help="whose jobs it makes"
        )
        create.add_argument("--name", required=True, help="what it is for")
        create.add_argument(
            "--scopes",
            nargs="+",
            choices=APIKey.Scope.values,
            default=APIKey.Scope.values,
            metavar="SCOPE",
            help=f"of {', '.join(APIKey.Scope.values)}; all if left out",
        )
        create.add_argument(
            "--days", type=int, help="valid for so many days; without it, until revoked"
        )
        actions.add_parser("list", help="every key, without its secret")
        revoke = actions.add_parser("revoke", help="make a key useless from now on")
        revoke.add_argument(
            "prefix", help="the part before the second underscore, such as rt_1a2b3c4d"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        actions = {"create": self.create, "list": self.show, "revoke": self.revoke}
        actions[options["action"]](options)

    def create(self, options: dict[str, Any]) -> None:
        owner = get_user_model().objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(
                f"There is no user {options['owner']}. Make one in the admin or with createsuperuser."
            )
        if options["days"] is not None and options["days"] < 1:
            raise CommandError("--days must be at least 1.")
        expires_at = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        _, plain = APIKey.objects.issue(
            owner, options["name"], options["scopes"], expires_at=expires_at
        )
        self.stderr.write("This is the only time that the key is shown:")
        self.stdout.write(plain)

    def show(self, options: dict[str, Any]) -> None:
        for key in APIKey.objects.select_related("owner"):
            state = (
                "revoked"
                if key.revoked_at
                else "expired"
                if key.expires_at and key.expires_at <= timezone.now()
                else "good"
            )
            used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
            self.stdout.write(
                "\t".join([key.prefix, state, str(key.owner), key.name, ",".join(key.scopes), used])
            )

    def revoke(self, options: dict[str, Any]) -> None:
        prefix = APIKey.prefix_of(options["prefix"])
        if not APIKey.objects.filter(prefix=prefix).exists():
            raise CommandError(f"There is no key {prefix}.")
        APIKey.objects.filter(prefix=prefix, revoked_at=None).update(revoked_at=timezone.now())
        self.stdout.write(f"{prefix} is revoked.")

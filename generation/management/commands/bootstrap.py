"""`manage.py bootstrap`: prepare an empty database for serving. Idempotent, and safe to run concurrently."""

import csv
import json
import secrets
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import InternalError, OperationalError, ProgrammingError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.exceptions import MigrationSchemaMissing
from django.db.migrations.executor import MigrationExecutor
from django.template.defaultfilters import pluralize

from generation.access import keys, roles
from generation.catalogue import bundled_embeddings, import_export
from generation.engine import release as release_format
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts.texts import normalize
from generation.errors import GenerationError
from generation.infra import database, notifications, session_limits
from generation.models import APIKey, PromptVariant, Release
from generation.releases import lifecycle as releases
from generation.releases import quality
from generation.releases.quality import Counts

STARTER = settings.BASE_DIR / "generation" / "starter"
SHIPPED = ("teacher", "student-2")  # existing databases may still serve the previous one, "student"
IN_STARTER = "generation/starter/"  # prefix of the stored paths of included releases
LOCK = 0x5265746F7274  # "Retort": advisory lock of the bootstrap
LOCK_NOT_AVAILABLE = "55P03"
MIGRATION_TRIES = 60
PAUSE_SECONDS = 1.0
RESTORED = (
    "A restoration of this database is in progress, or was interrupted. Wait for its end, or repeat it: manage.py "
    f"restore FILE --replace. The previous tables are in the schema {database.BEFORE_RESTORE}; drop it if they are "
    "not needed."
)


class Command(BaseCommand):
    help = "Migrate, create the first admin account, register the starter releases, import the starter catalogue."
    requires_system_checks: list[str] = []  # they import all views; use `manage.py check`

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the result as a JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        try:
            with exclusive():
                if database.is_being_restored():
                    raise CommandError(RESTORED)
                done: dict[str, Any] = {
                    "migrations": self.migrate(),
                    "releases": self.register_starter(),
                    "evaluated_texts": self.store_quality(),
                    "imported_variants": self.import_catalogue(),
                    "stored_embeddings": bundled_embeddings.store_missing(),
                    "made_groups": roles.create_missing(),
                    # Last, because a later failure would lose the password.
                    **self.make_admin(),
                    "made_api_key": self.make_api_key(),
                }
            notifications.encode()
        except (
            OperationalError,
            ProgrammingError,  # missing permissions
            InternalError,  # a read-only server
            MigrationSchemaMissing,
        ) as error:
            server = connection.settings_dict
            raise CommandError(
                f"PostgreSQL at {server['HOST']}:{server['PORT'] or 5432}, database {server['NAME']}: "
                f"{str(error).strip()}\n"
                "Check that DATABASE_URL names an existing database and an account that owns it."
            ) from error
        except GenerationError as error:
            raise CommandError(error.detail) from error
        if options["json"]:
            self.stdout.write(json.dumps(done))
        else:
            if done["admin_password"]:
                self.stdout.write(
                    f"Admin account: {done['admin_user']}, password {done['admin_password']} (not shown again)"
                )
            self.say(f"Ready in {time.monotonic() - began:.1f} s.")

    def say(self, text: str) -> None:
        self.stderr.write(text, lambda plain: plain)  # progress, not an error: no red

    # --- steps ------------------------------------------------------------------------------------

    def migrate(self) -> int:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            self.say(f"Migrating the database ({len(plan)} step{pluralize(len(plan))}) …")
            session_limits.lift()
            connection.close()  # its session still has the limits
            self.run_migrations()
        session_limits.set_missing()
        return len(plan)

    def run_migrations(self) -> None:
        """Migrate; retry while long transactions hold locks that the migrations need."""
        for tries in range(MIGRATION_TRIES, 0, -1):
            try:
                call_command("migrate", interactive=False, verbosity=0)
                return
            except OperationalError as error:
                if tries == 1 or database.sqlstate(error) != LOCK_NOT_AVAILABLE:
                    raise
            self.say("A table is in use by a long transaction. Migrating again …")
            time.sleep(PAUSE_SECONDS)

    def make_admin(self) -> dict[str, str | None]:
        """Create a superuser if there is none. Return its name and its password, which is stored nowhere else."""
        users = get_user_model().objects
        found = users.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if found:
            return {"admin_user": found.get_username(), "admin_password": None}
        name = "admin"
        while users.filter(username=name).exists():
            name = f"admin-{secrets.token_hex(2)}"
        password = secrets.token_urlsafe(12)
        users.create_superuser(name, password=password)
        self.say(f"Created the admin account {name}.")
        return {"admin_user": name, "admin_password": password}

    def register_starter(self) -> list[str]:
        """Register the included teacher and student. Return their names."""
        return [self.register_shipped(STARTER / name) for name in SHIPPED]

    def register_shipped(self, folder: Path) -> str:
        """Register a release once. Activate it if none of its kind is active, to keep the operator's choice.

        It also replaces an active release of an earlier starter whose files an upgrade removed.
        """
        try:
            manifest = release_format.read(folder)
            release = Release.objects.filter(name=manifest.name).first()
            if release is None:
                self.say(f"Registering the starter's {manifest.kind} {manifest.name} …")
                release = releases.register(folder)
        except (ReleaseInvalid, GenerationError) as error:
            raise CommandError(f"The starter release is damaged: {error.detail}") from error
        active = Release.objects.filter(kind=release.kind, status=Release.Status.ACTIVE).first()
        if release.status == Release.Status.CANDIDATE and (active is None or _is_removed(active)):
            if active is not None:
                self.say(f"{active.name} is no longer included: {release.name} replaces it.")
            releases.activate(release)
        return release.name

    def store_quality(self) -> int:
        """Store the counts of the included releases' evaluations, once. Return the number of texts."""
        path = STARTER / "quality.csv"
        counts: dict[str, dict[str, Counts]] = defaultdict(dict)
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    text = normalize(row["text"])
                    counts[row["release"]][text] = Counts(int(row["right"]), int(row["judged"]))
        stored = 0
        for release in Release.objects.filter(name__in=counts, path__startswith=IN_STARTER):
            if not release.qualities.filter(evaluated__gt=0).exists():
                quality.record_evaluation(release, counts[release.name])
                stored += len(counts[release.name])
        return stored

    def import_catalogue(self) -> int:
        """Import into an empty catalogue only, so that deleted variants are not restored."""
        if PromptVariant.objects.exists():
            return 0
        self.say("Importing the starter catalogue …")
        report = import_export.import_file(STARTER / "catalogue.csv")
        if report.errors:
            error = report.errors[0]
            raise CommandError(
                f"The starter catalogue is damaged, row {error.row}: {error.message}"
            )
        return report.new

    def make_api_key(self) -> bool:
        """Create the key LOCAL_API_KEY with all scopes, for scripts on this machine."""
        plain = settings.LOCAL_API_KEY
        if not plain:
            return False
        key = APIKey.objects.filter(prefix=APIKey.prefix_of(plain)).first()
        if key is None:
            owner = (
                get_user_model()
                .objects.filter(is_superuser=True, is_active=True)
                .order_by("pk")
                .first()
            )
            keys.issue(owner, "local", list(APIKey.Scope.values), secret=plain)
            return True
        if not key.matches(plain):
            raise CommandError(
                "LOCAL_API_KEY was revoked or has expired. Set another one; for `make run`, remove it from "
                ".retort/secrets.json to get a new one."
            )
        return False


def _is_removed(release: Release) -> bool:
    """Return whether the release was an included one whose folder is gone."""
    return release.path.startswith(IN_STARTER) and not releases.folder(release).exists()


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold a lock, so that only one bootstrap of a database runs at a time. It is released when the process ends.

    It belongs to an open transaction of a separate connection, since PgBouncer in transaction mode keeps no sessions.
    It is polled, because CREATE INDEX CONCURRENTLY would wait for a statement that waits for the lock.
    """
    holder = connection.copy()
    holder.set_autocommit(False)
    try:
        while not _take(holder):
            time.sleep(PAUSE_SECONDS / 10)
        yield
    finally:
        holder.close()


def _take(holder: BaseDatabaseWrapper) -> bool:
    with holder.cursor() as cursor:
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout TO 0")
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        return cursor.fetchone()[0]

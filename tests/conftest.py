"""Fixtures of all tests: PostgreSQL, a Redis database for each test process, folders, --device."""

import gc
import logging
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test import TransactionTestCase
from xdist.scheduler import LoadFileScheduling

import generation.engine  # noqa: F401  before torch: it sets how long OpenMP may spin
from tests.template import Template
from tests.web import Web


def _own_redis_database(url: str) -> str:
    """The URL with the database number of this xdist worker, so that parallel tests do not share data."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number = 1 + int(worker.removeprefix("gw"))
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return urlunsplit(parts._replace(query=f"db={number}"))
    return urlunsplit(parts._replace(path=f"/{number}"))


gc.disable()  # until all tests are collected: imports create many objects that are kept
settings.REDIS_URL = _own_redis_database(settings.REDIS_URL)
settings.RUNTIME = "torch"  # the reference; tests of other runtimes set their own
# WhiteNoise looks up a file when it is requested; otherwise it scans all files whenever a test creates a client.
settings.WHITENOISE_AUTOREFRESH = True
HASHERS = settings.PASSWORD_HASHERS
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *HASHERS]  # cheap
settings.CELERY_BROKER_URL = settings.REDIS_URL.replace("unix://", "redis+socket://", 1)


# A stack, and a converted release.
TOGETHER = ("tests/acceptance/", "tests/generation/engine/runtimes/")
ALL_SLOW = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="where tensors live in engine tests: cpu, cuda"
    )


class ByFile(LoadFileScheduling):
    """Distribute whole files, and whole folders whose files share what takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        for folder in TOGETHER:
            if nodeid.startswith(folder):
                return folder
        return super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the acceptance tests, which take longest and mostly wait. Then tests of whole processes."""

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("acceptance"):
            return 0
        return 1 if item.path.parent == Path(__file__).parent else 2

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.freeze()  # garbage collections skip the modules and the collected tests
    gc.set_threshold(20_000, 10, 10)  # most objects of Django and torch go without a collection
    gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import a file whose tests are all slow if these are not selected: some import large clients."""
    if "not slow" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return True if ALL_SLOW.search(collection_path.read_text("utf-8")) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for each core, and one for the acceptance tests if they are selected."""
    return (os.cpu_count() or 1) + ("not acceptance" not in config.option.markexpr)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device")


@pytest.fixture(autouse=True)
def own_places(settings, tmp_path: Path) -> None:
    """Put the files of a test into its own folder."""
    settings.DATA_DIR = tmp_path / "data"
    settings.MEDIA_ROOT = tmp_path / "data" / "media"
    settings.RELEASES_ROOT = tmp_path / "data" / "releases"
    settings.RUNTIMES_DIR = tmp_path / "data" / "runtimes"


@pytest.fixture(autouse=True)
def keys_are_read_each_time(monkeypatch) -> None:
    """Apply changes of a key at once, and cache no key beyond its test."""
    from cachetools import TTLCache

    from generation.api import authentication

    monkeypatch.setattr(authentication, "remembered", TTLCache(maxsize=1, ttl=0))


@pytest.fixture(autouse=True)
def own_rescuer(monkeypatch) -> None:
    """Reset the rescuer, so that a sweep does not wait because the previous one was long ago."""
    from generation import tasks
    from generation.jobs.rescue import Rescuer

    monkeypatch.setattr(tasks, "rescuer", Rescuer())


@pytest.fixture
def redis_server():
    """A client of this test's empty Redis database."""
    from generation.infra import redis_client

    client = redis_client.client()
    client.flushdb()
    yield client
    client.flushdb()


@pytest.fixture
def deployed_hashers(settings) -> None:
    """Hash passwords so that a web process, which has the hashers of the settings, can check them."""
    settings.PASSWORD_HASHERS = HASHERS


@pytest.fixture(scope="session")
def web(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    """The web process under uvicorn, on this process's database and Redis."""
    with django_db_blocker.unblock():
        folder = tmp_path_factory.mktemp("web")
        web = Web(
            folder,
            connection="tests.quick_web:Connection",
            LOG_LEVEL="DEBUG",
            PGAPPNAME="the web process of the tests",
        )
    yield web
    web.stop()


@pytest.fixture(scope="session")
def object_store_url():
    """An S3 server in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel("ERROR")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store_url: str, settings, monkeypatch):
    """Store the images of this test in their own bucket. Return an S3 client, to inspect it independently."""
    import boto3

    from project.settings.storage import object_store

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    name = f"retort-{uuid.uuid4().hex}"
    store = boto3.resource("s3", endpoint_url=object_store_url, region_name="us-east-1")
    settings.S3_BUCKET = name
    settings.STORAGES = {
        **settings.STORAGES,
        "default": object_store(
            name, endpoint_url=object_store_url, region="us-east-1", prefix="pictures"
        ),
    }
    return store.create_bucket(Bucket=name)


PERMANENT_TABLES = {"django_migrations", "django_content_type", "auth_permission"}


def delete_rows(_: TransactionTestCase) -> None:
    """Empty the database after a transactional test: 5 ms where Django's `flush` takes 150 ms.

    All foreign keys are deferred to the end of the transaction, so that the order of the tables does not matter.
    """
    tables = set(connection.introspection.table_names()) - PERMANENT_TABLES
    deletions = ";".join(f"DELETE FROM {connection.ops.quote_name(name)}" for name in tables)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(deletions)


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> None:
    TransactionTestCase._fixture_teardown = delete_rows


@pytest.fixture(scope="session")
def template(request, tmp_path_factory, django_db_blocker) -> Iterator[Template | None]:
    """The migrated database that the processes of one run copy; None if there is only one process."""
    run = getattr(request.config, "workerinput", {}).get("testrunuid")
    if run is None:
        yield None
        return
    with django_db_blocker.unblock():
        template = Template(run, tmp_path_factory.getbasetemp().parent)
    yield template
    with django_db_blocker.unblock():
        template.drop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings, template, django_db_blocker):
    if template:
        with django_db_blocker.unblock():
            template.take()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, template, django_db_blocker):
    """Drop the test database at the end even while a thread or a killed process of a test still has a session."""
    if template:
        with django_db_blocker.unblock():
            template.give()
    yield
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

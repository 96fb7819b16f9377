"""The typed client that `make client` generates from the OpenAPI document."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import make_embedding, make_key, make_release, make_variant
from tests.fake_worker import make_pictures
from tests.web import ROOT, Web

TOOLS = Path(sys.executable).parent
PROGRAM = """
import os, sys
from retort_client import AuthenticatedClient
from retort_client.api.catalogue import list_variants
from retort_client.api.jobs import create_job, read_job
from retort_client.models import Job, JobRequest, PaginatedVariantList, Problem

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["KEY"])
variants = list_variants.sync(client=client)
assert isinstance(variants, PaginatedVariantList), variants
refused = create_job.sync(client=client, body=JobRequest(variant="unknown"))
assert isinstance(refused, Problem) and refused.code == "variant_not_found", refused
made = create_job.sync(client=client, body=JobRequest(variant=variants.results[0].slug, n=2))
assert isinstance(made, Job), made
print("made", flush=True)
sys.stdin.readline()
done = read_job.sync(made.id, client=client, wait=30)
assert isinstance(done, Job) and done.status == "succeeded", done
for image in done.images:
    answer = client.get_httpx_client().get(image.url)
    assert len(answer.raise_for_status().content) == image.size_bytes
print(len(done.images), done.model)
"""

pytestmark = pytest.mark.usefixtures("redis_server")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the client as `make client` does and return its folder."""
    folder = tmp_path_factory.mktemp("client")
    document, target = folder / "openapi.json", folder / "retort-client"
    tool = [TOOLS / "openapi-python-client", "generate", "--path", document, "--fail-on-warning"]
    where = ["--config", ROOT / "deploy" / "client.yaml", "--output-path", target]
    environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        [
            sys.executable,
            "manage.py",
            "spectacular",
            "--format",
            "openapi-json",
            "--file",
            document,
        ],
        [*tool, *where],
    ):
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return target


@pytest.mark.slow
def test_the_generated_package_has_every_operation(generated: Path):
    assert 'name = "retort-client"' in (generated / "pyproject.toml").read_text()
    assert (generated / "retort_client" / "py.typed").is_file()
    operations = {path.stem for path in generated.glob("retort_client/api/*/*.py")}
    assert {"create_job", "read_job", "list_variants", "put_prediction", "create_run"} <= operations


@pytest.fixture
def server(web: Web, transactional_db, settings) -> Iterator[Web]:
    settings.MEDIA_ROOT = web.log.parent / "media"
    make_release()
    make_embedding(variant=make_variant(text="a red vase"))
    yield web


@pytest.mark.slow
def test_a_program_makes_a_picture_with_the_client(generated: Path, server: Web):
    environment = {
        **os.environ,
        "URL": server.url,
        "KEY": make_key()[1],
        "PYTHONPATH": str(generated),
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, text=True, stdin=-1, stdout=-1, stderr=-1
    ) as program:
        assert program.stdout is not None
        ready = program.stdout.readline()
        if ready:
            make_pictures()
        printed, errors = program.communicate("go on\n", timeout=120)
    assert (program.returncode, printed.strip()) == (0, "2 student-1"), errors


@pytest.mark.slow
def test_type_checkers_find_wrong_uses_of_the_client(generated: Path, tmp_path: Path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from retort_client.models import JobRequest\nJobRequest(variant=1)\n")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={tmp_path}", wrong],
        env={**os.environ, "MYPYPATH": str(generated)},
        capture_output=True,
        text=True,
    )
    assert 'Argument "variant" to "JobRequest" has incompatible type "int"' in ran.stdout
    assert "Found 1 error" in ran.stdout, ran.stdout

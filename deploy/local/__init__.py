"""Deployment on one machine: private servers and all processes of the project, supervised. Imports no other packages
of the project.

Used by the Makefile (`make run`, `make demo`, `make test`) and, as `python -m deploy.local run` with RETORT_HOME, by
the acceptance tests and the benchmarks, which read `run.json` in that folder.
"""

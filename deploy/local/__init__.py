"""One machine: private servers and every process of the project, supervised. Imports none of the project's code.

Used by the Makefile (`make run`, `make demo`, `make test`) and, as `python -m deploy.local run` with RETORT_HOME, by
the acceptance tests and the benchmarks, which read `run.json` in that folder.
"""

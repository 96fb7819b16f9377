"""One machine: private servers and every process of the project, supervised. Imports none of the project's code.

From a terminal: `make run`, `make demo`, `make test`. From tests and the bench: `deploy.local.stack.Stack`,
or `python -m deploy.local run` with RETORT_HOME, reading `run.json` in that folder.
"""

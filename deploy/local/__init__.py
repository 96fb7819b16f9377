"""One machine: private servers and every process of the project, supervised. Knows the processes' commands, imports none of their code.

From a terminal: `make run`, `make demo`, `make test`. From tests and the bench: `deploy.local.stack.Stack`,
or `python -m deploy.local run` with RETORT_HOME, reading `run.json` in that folder.
"""

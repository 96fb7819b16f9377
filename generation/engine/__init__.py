"""Tensors in, tensors out: load a release, encode texts, generate images. Knows no Django, no queue and no database."""

import os

# Read by OpenMP when torch is loaded, so before that. By default its threads spin for long while they wait for each
# other: on cores that others use too, a step of 50 ms then takes seconds. A short spin costs an idle machine 3 % and
# keeps a busy one at full speed (docs/experiments.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

"""Inference engine: load a release, encode texts, generate images. Pure tensor code, without Django."""

import os

# Read by OpenMP when torch is loaded. By default its threads spin for long while they wait for each other: on busy
# cores a step of 50 ms then takes seconds. A short spin costs an idle machine 3 % and keeps a busy one at full speed
# (docs/experiments.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

"""Inference engine: load a release, encode texts, generate images. Pure tensor code, without Django."""

import os

# Read by OpenMP when torch is loaded. By default its threads spin for a long time while they wait for each other: on
# busy cores a step of 50 ms then takes seconds. A short spin costs 3 % on an idle machine and avoids this
# (docs/experiments.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

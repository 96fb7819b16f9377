"""Tensors in, tensors out: load a release, encode texts, generate images. Knows no Django, no queue and no database."""

import os

# Read by OpenMP when torch is loaded, so before that. By default a thread that waits for another spins: two workers
# that share their cores then wait for each other's spinning, and a step of 50 ms takes seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

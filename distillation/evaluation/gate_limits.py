"""Limits and names of the gate that pages need as well. Imports no torch."""

MAX_SEEDS = 256  # of a prompt: more are neither advised nor measured again
QUALITY = "quality"  # the check that fails if a judge is missing
BETTER = "better than the active release"  # the check that it is better somewhere

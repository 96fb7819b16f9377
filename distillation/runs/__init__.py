"""The life of a run, its slices, and what becomes of its release."""

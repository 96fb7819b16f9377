"""Versions of the detector: registration, loading, and judging of results."""

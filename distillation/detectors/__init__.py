"""Detector versions: registration, loading, and judging of results."""

"""Releases: registration, status, activation and coverage."""

"""Releases: registration, status, activation, coverage and quality."""

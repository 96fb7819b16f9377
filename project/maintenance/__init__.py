"""Diagnosis, backup and restoration of an installation."""

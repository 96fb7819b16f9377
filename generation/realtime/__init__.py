"""Clients that wait for a job or watch it. Imports neither Django nor torch."""

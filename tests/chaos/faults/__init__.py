"""Faults: a class for each kind, with the actions that begin and end it."""

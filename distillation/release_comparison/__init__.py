"""Comparison of two releases by a person: side by side and blind."""

"""Distillation runs: when one begins, life cycle, inputs, what becomes of the release."""

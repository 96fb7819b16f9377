"""Distillation runs: life cycle, slices, promotion of the release."""

"""Distillation runs: decision to start one, life cycle, inputs, promotion of the release."""

"""Prediction and model routes compatible with Replicate's API."""

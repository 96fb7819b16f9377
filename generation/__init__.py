"""Prompts in, images out."""

"""Texts of prompts, their tokens and their embeddings."""

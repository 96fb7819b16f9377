"""Prompt texts, their tokens and their embeddings."""

"""The catalogue of prompt variants and their embeddings."""

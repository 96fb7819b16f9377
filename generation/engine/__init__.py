"""Tensors in, tensors out: load a release, encode texts, generate images. Knows no Django, no queue and no database."""

"""Stored images: keys, files, cache, links."""

"""A small photographic world with a real teacher: renders, captions, networks, pack. Knows no Django."""

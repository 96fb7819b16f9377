"""Formats of dates and times on pages, by language, for FORMAT_MODULE_PATH."""

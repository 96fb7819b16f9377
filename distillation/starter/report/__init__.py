"""The report on the starter."""

"""Comparison of the methods of the structure stage: same pairs, student, time and seeds, judged as releases."""

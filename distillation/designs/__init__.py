"""Designs as rows: parameters, life cycle, execution, candidates."""

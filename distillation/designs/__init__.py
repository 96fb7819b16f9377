"""Designs: begin, life cycle, execution, rows of the candidates."""

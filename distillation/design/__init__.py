"""Search for a student within limits: candidates are measured, trained in rungs, and shown as a Pareto front."""

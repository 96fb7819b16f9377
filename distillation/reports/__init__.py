"""Reports of runs for display: evaluation, curves, stages, durations, what the gate found."""

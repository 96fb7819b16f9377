"""Life cycle of a job, from submission to its end."""

"""The prediction and model routes of Replicate's API."""

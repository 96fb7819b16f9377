"""Serializers of the API: the shapes of requests and responses. The rules are in `generation.jobs.submission`."""

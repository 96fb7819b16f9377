"""The REST API: authentication, limits, problem details, views and serializers."""

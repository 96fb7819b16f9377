"""The life of a release, from registration to activation."""

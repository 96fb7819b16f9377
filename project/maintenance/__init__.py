"""Commands of operators: diagnosis, backup and restoration of an installation."""

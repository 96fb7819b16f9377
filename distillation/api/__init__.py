"""The REST API of distillation runs."""

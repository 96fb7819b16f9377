"""The Django app of distillation."""

from django.apps import AppConfig


class DistillationConfig(AppConfig):
    name = "distillation"

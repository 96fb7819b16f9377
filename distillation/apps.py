"""The Django app of distillation."""

from django.apps import AppConfig


class DistillationConfig(AppConfig):
    name = "distillation"

    def ready(self) -> None:
        from distillation import errors
        from generation.api import problems

        problems.add_errors(errors)

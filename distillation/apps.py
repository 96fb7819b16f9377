"""The Django app of distillation."""

from django.apps import AppConfig


class DistillationConfig(AppConfig):
    name = "distillation"

    def ready(self) -> None:
        from distillation.problems import PROBLEMS
        from generation import problems

        problems.add(PROBLEMS)

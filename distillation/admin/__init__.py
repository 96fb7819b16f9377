"""The admin of distillation, one module per noun. Shows rows, calls the app's functions, changes no state itself."""

from distillation.admin import evaluations, releases, runs, schedule

__all__ = ["evaluations", "releases", "runs", "schedule"]

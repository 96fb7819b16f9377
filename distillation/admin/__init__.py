"""The admin of distillation, one module per noun. Shows rows, calls the app's functions, changes no state itself."""

from distillation.admin import runs, schedule

__all__ = ["runs", "schedule"]

"""The Django project around the two apps: settings, Celery, URLs, the web process."""

from project.celery import app as celery_app

__all__ = ["celery_app"]

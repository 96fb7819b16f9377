"""The Celery application. Queues, routes and the schedule are in settings; the tasks are in the apps.

What runs in a worker is decided by the queue it consumes: `-Q generation` holds a device, `-Q encode` a text encoder.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("retort")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

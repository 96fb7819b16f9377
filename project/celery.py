"""The Celery application. Queues, routes and the schedule are in settings; the tasks are in the apps.

A worker's queue decides which bootstep it runs: `-Q generation` holds a device, `-Q encode` a text encoder.
"""

import os

from celery import Celery
from celery.signals import beat_init, worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("retort")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.Task.Request = "generation.infra.expiry:LastMessageRequest"  # clocks of hosts may differ
app.autodiscover_tasks()
app.steps["worker"].update(
    {
        "generation.tasks:GenerationStep",
        "generation.tasks:ReferenceStep",
        "generation.tasks:EncodeStep",
        "generation.tasks:LightStep",
        "generation.tasks:WebhooksStep",
        "distillation.tasks:DistillationStep",
    }
)


@worker_init.connect
@beat_init.connect
def _refuse_faults(**_: object) -> None:
    from django.core.exceptions import ImproperlyConfigured

    from generation.checks import refuse_faults  # its models need Django's set-up

    try:
        refuse_faults()
    except ImproperlyConfigured as error:
        raise SystemExit(str(error)) from error  # Celery only logs an Exception of a receiver


@worker_init.connect
@beat_init.connect
def _begin_tracing(**_: object) -> None:
    from project import tracing  # the settings are not ready earlier

    tracing.begin()

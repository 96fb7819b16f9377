"""Celery: queues, routes, the broker and the schedule. Comments name the hazard that an option prevents."""

import math

from celery.schedules import crontab
from kombu import Queue

from project.settings.jobs import SWEEP_SECONDS
from project.settings.storage import REDIS_URL
from project.settings.web import TIME_ZONE

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_DEFAULT_QUEUE = "light"
# no_ack: receiving a message deletes it. The sweep sends lost ones again, since rows are the truth. With
# acknowledgements, a worker whose acknowledgement fails (Redis was down during a task) would receive no more messages.
CELERY_TASK_QUEUES = [
    Queue(name, no_ack=True)
    for name in ("generation", "reference", "encode", "distillation", "webhooks", "light")
]
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a typo in a route is an error
CELERY_TASK_ROUTES = {
    "generation.serve": {"queue": "generation"},
    "generation.encode": {"queue": "encode"},
    "generation.deliver": {"queue": "webhooks"},
    "generation.match": {"queue": "encode"},
    "distillation.wake": {"queue": "distillation"},
    "distillation.clean": {"queue": "distillation"},  # needs that worker's libraries to read pairs
    "distillation.curate": {"queue": "distillation"},
}
# Number of tasks after which Celery closes the connection to PostgreSQL; by default it does around every task.
CELERY_DB_REUSE_MAX = 1_000_000
# Results are in rows. No result keys pile up in Redis, and no image passes through it.
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True  # a worker may start before Redis
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # the default gives up after 100
# Treat an error of Redis (READONLY, MISCONF, OOM …) as a lost connection, instead of ending the process.
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_WORKER_CONSUMER = "generation.infra.consumer:WaitingConsumer"  # waits before it reconnects
# Retry once, immediately: a restart of Redis breaks pooled connections. More is not needed, since messages may be lost.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_max": 0}
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False  # keep the work of the task
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # a busy solo worker cannot answer
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "health_check_interval": 10,  # drops a half-open connection
    "socket_keepalive": True,
    "socket_connect_timeout": 2,
    "socket_timeout": 2,  # an unresponsive server must not block a thread of the web process
}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]  # no pickle
CELERY_TIMEZONE = TIME_ZONE
# Messages expire, since the next one replaces them. expire_seconds: django-celery-beat's name for `expires`.
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "generation.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expire_seconds": math.ceil(SWEEP_SECONDS)},
    },
    "forget-webhooks": {
        "task": "generation.forget_webhooks",
        "schedule": crontab(hour="3", minute="10"),
        "options": {"expire_seconds": 3600},
    },
    "encode-missing": {
        "task": "generation.encode",
        "schedule": 60.0,
        "options": {"expire_seconds": 60},
    },
    "sweep-runs": {
        "task": "distillation.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expire_seconds": math.ceil(SWEEP_SECONDS)},
    },
    "watch-canary": {
        "task": "distillation.watch_canary",
        "schedule": 15.0,
        "options": {"expire_seconds": 15},
    },
    "announce-candidates": {
        "task": "distillation.announce",
        "schedule": 60.0,
        "options": {"expire_seconds": 60},
    },
    "refresh-image-sources": {
        "task": "distillation.refresh_sources",
        "schedule": crontab(hour="1", minute="30"),
        "options": {"expire_seconds": 3600},
    },
    "count-quality": {
        "task": "generation.count_quality",
        "schedule": 300.0,
        "options": {"expire_seconds": 300},
    },
    "clean-images": {
        "task": "generation.clean",
        "schedule": crontab(hour="3", minute="30"),
        "options": {"expire_seconds": 3600},
    },
    "scrub-images": {
        "task": "generation.scrub",
        "schedule": crontab(minute="45"),
        "options": {"expire_seconds": 1800},
    },
    "clean-distillation": {
        "task": "distillation.clean",
        "schedule": crontab(hour="4", minute="30"),
        "options": {"expire_seconds": 12 * 3600},  # a run may last until then
    },
    "consider-redistillation": {
        "task": "distillation.consider",
        "schedule": crontab(hour="2", minute="30"),
        "options": {"expire_seconds": 3600},
    },
}
# The schedule is in the database, where people can change it; missing entries are inserted from here.
CELERY_BEAT_SCHEDULER = "generation.infra.schedule:Scheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 2  # seconds between two ticks at most; each renews the lock

"""Celery: queues, routes, the broker and the schedule. Each option is there against a known hazard."""

import math

from celery.schedules import crontab
from kombu import Queue

from project.settings.jobs import SWEEP_SECONDS
from project.settings.storage import REDIS_URL
from project.settings.web import TIME_ZONE

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_DEFAULT_QUEUE = "light"
# no_ack: a message is gone when it is received, and a lost one is sent again, since rows are the truth. With
# acknowledgements a worker whose acknowledgement fails (Redis went away during a task) receives nothing any more.
CELERY_TASK_QUEUES = [
    Queue(name, no_ack=True)
    for name in ("generation", "reference", "encode", "distillation", "webhooks", "light")
]
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a typing error in a route is an error
CELERY_TASK_ROUTES = {
    "generation.serve": {"queue": "generation"},
    "generation.encode": {"queue": "encode"},
    "generation.deliver": {"queue": "webhooks"},
    "generation.match": {"queue": "encode"},
    "distillation.wake": {"queue": "distillation"},
    "distillation.clean": {"queue": "distillation"},  # which has the libraries that know pairs
    "distillation.curate": {"queue": "distillation"},
}
# Tasks after which Celery closes the connection to PostgreSQL; the default is to close it before and after each one.
CELERY_DB_REUSE_MAX = 1_000_000
# Rows are the truth: nobody reads results, so no result keys pile up in Redis, and no image passes through it.
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True  # a worker may be up before Redis
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # the default gives up after 100
# A Redis that answers with an error (READONLY, MISCONF, OOM …) is a lost connection, not the end of the process.
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_WORKER_CONSUMER = "generation.infra.consumer:WaitingConsumer"  # which then waits for it
# Once and at once, since a restart breaks the connections that are kept. Nobody waits for a message: it may be lost.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_max": 0}
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False  # finished work is kept
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # a busy solo worker cannot answer
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "health_check_interval": 10,  # drops a half-open connection
    "socket_keepalive": True,
    "socket_connect_timeout": 2,
    "socket_timeout": 2,  # a server that is frozen must not hold a thread of the web process
}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]  # no pickle
CELERY_TIMEZONE = TIME_ZONE
# Messages expire, since the next one says the same. expire_seconds: as django-celery-beat calls it.
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
# The schedule is in the database, for people to change; what is here is put there when it is missing.
CELERY_BEAT_SCHEDULER = "generation.infra.schedule:Scheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 2  # seconds between two ticks at most; each renews the lock

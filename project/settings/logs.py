"""Logs: JSON lines for machines, colours for a terminal. Traces."""

import logging

import structlog

from project.settings import environment

LOG_LEVEL = environment.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = environment.choice("LOG_FORMAT", "json", ("json", "console"))
OTEL_EXPORTER_OTLP_ENDPOINT = environment.env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default="")
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG  # the line at a request's end says it all
_SHARED_PROCESSORS: list = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]
logging.captureWarnings(True)  # a warning of Python's is a line like the others
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "retort": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _SHARED_PROCESSORS,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer()
                if LOG_FORMAT == "console"
                else structlog.processors.JSONRenderer(),
            ],
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "retort"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # One line a request is enough: django_structlog's.
        "django.server": {"level": "ERROR"},
        "uvicorn": {"level": "INFO", "handlers": [], "propagate": True},  # in place of its own
        "uvicorn.access": {"level": "ERROR", "propagate": True},
        # One line a transition is ours; Celery's own two a message are noise.
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.worker.request": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
    },
}
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)

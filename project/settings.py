"""Every setting, and every read of the environment. Malformed values stop the process with the variable's name.

`deploy/README.md` has the same variables as a table; a test compares the two.
"""

import logging
import os
import socket
from pathlib import Path

import environ
import structlog
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from kombu import Queue

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()


def _positive(name: str, default: float, *, whole: bool = False) -> float:
    """A number above zero from the environment."""
    raw = env.str(name, default=str(default))
    try:
        value = int(raw) if whole else float(raw)
    except ValueError:
        value = 0
    if value <= 0:
        kind = "whole number" if whole else "number"
        raise ImproperlyConfigured(f"{name}={raw!r}: give a {kind} above zero.")
    return value


def _count(name: str, default: int) -> int:
    return int(_positive(name, default, whole=True))


def _whole(name: str, default: int, *, most: int) -> int:
    value = int(env.int(name, default=default))
    if not 0 <= value <= most:
        raise ImproperlyConfigured(f"{name}={value}: give a whole number from 0 to {most}.")
    return value


def _share(name: str, default: float) -> float:
    value = float(env.float(name, default=default))
    if not 0 <= value <= 1:
        raise ImproperlyConfigured(f"{name}={value:g}: give a share from 0 to 1.")
    return value


def _choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = env.str(name, default=default)
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r}: give one of {', '.join(choices)}.")
    return value


# --- Django ---------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(50))' "
        "(`make run` and `make test` make their own)."
    )
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.import_export",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_structlog",
    "import_export",
    "django_celery_beat",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "generation",
    "distillation",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "project.browsers.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "project.browsers.CsrfViewMiddleware",
    "project.browsers.AuthenticationMiddleware",
    "project.browsers.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.browsers.HtmxMiddleware",
    "project.middleware.RequestLog",
    "generation.api.middleware.actor",
    "generation.api.middleware.rate_limit",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.asgi.django_app"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]

# Behind a proxy that ends TLS and sets X-Forwarded-Proto.
if env.bool("BEHIND_TLS_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [
        r"^health/",
        r"^metrics$",
    ]  # probed inside the cluster, over plain HTTP

# --- PostgreSQL: the truth ------------------------------------------------------------------------
DATABASES = {
    "default": env.db_url("DATABASE_URL", default="postgres://postgres@127.0.0.1:5432/retort")
}
if DATABASES["default"]["ENGINE"] != "django.db.backends.postgresql":
    raise ImproperlyConfigured(
        "DATABASE_URL must name a PostgreSQL database (postgres://user:password@host:port/name)."
    )
DATABASES["default"]["ENGINE"] = "project.postgresql"
DATABASES["default"]["CONN_MAX_AGE"] = 60  # the web's threads and the workers last
DATABASES["default"]["CONN_HEALTH_CHECKS"] = (
    True  # else a PostgreSQL restart costs an error per thread
)
DATABASES["default"]["OPTIONS"] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # milliseconds: a host that vanished must not hold the web's threads
    **DATABASES["default"].get("OPTIONS", {}),
}

# --- Redis: the queue, hints and the cache --------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")

# --- Places ---------------------------------------------------------------------------------------
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / ".retort" / "data"))).absolute()
MEDIA_ROOT = DATA_DIR / "media"
RELEASES_ROOT = DATA_DIR / "releases"
_collected = env.str("STATIC_ROOT", default="")  # where `manage.py collectstatic` puts files
STATIC_ROOT = Path(_collected).absolute() if _collected else None
STATIC_URL = "/static/"
# Without it files come from the packages themselves: nobody has to collect anything on a laptop.
WHITENOISE_USE_FINDERS = STATIC_ROOT is None or not STATIC_ROOT.is_dir()
WHITENOISE_AUTOREFRESH = False

# --- Images in an object store --------------------------------------------------------------------
S3_BUCKET = env.str("S3_BUCKET", default="")  # empty: they lie in DATA_DIR
S3_ENDPOINT_URL = env.str("S3_ENDPOINT_URL", default="")  # empty: Amazon's
S3_REGION = env.str("S3_REGION", default="")
S3_PREFIX = env.str("S3_PREFIX", default="")
S3_DELIVERY = _choice(
    "S3_DELIVERY", "redirect", ("redirect", "serve")
)  # whether clients fetch files from the store themselves


def object_store(
    bucket: str, *, endpoint_url: str = "", region: str = "", prefix: str = ""
) -> dict[str, object]:
    """An entry of STORAGES. Credentials are found by boto3 itself: environment, profile, or the machine's role."""
    try:
        import storages  # noqa: F401
        from botocore.config import Config
    except ImportError as error:
        raise ImproperlyConfigured(
            "S3_BUCKET is set, but the library for it is missing: pip install -r deploy/requirements-s3.txt"
        ) from error
    client_config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Not every store of this kind knows the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    options = {
        "bucket_name": bucket,
        "endpoint_url": endpoint_url or None,
        "region_name": region or None,
        "location": prefix.strip("/"),
        "file_overwrite": True,  # content decides the name
        "default_acl": None,
        "object_parameters": {"CacheControl": "public, max-age=31536000, immutable"},
        "client_config": client_config,
    }
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}


STORAGES: dict[str, dict[str, object]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
if S3_BUCKET:
    STORAGES["default"] = object_store(
        S3_BUCKET, endpoint_url=S3_ENDPOINT_URL, region=S3_REGION, prefix=S3_PREFIX
    )

# --- Jobs -----------------------------------------------------------------------------------------
BATCH_SIZE = _count("BATCH_SIZE", 8)  # most images in one UNet call
LEASE_SECONDS = _positive("LEASE_SECONDS", 20)  # a silent worker loses its jobs after this long
MAX_ATTEMPTS = _count("MAX_ATTEMPTS", 3)  # failed attempts before a job fails for good
MAX_IMAGES_PER_JOB = _count("MAX_IMAGES_PER_JOB", 10)
SWEEP_SECONDS = _positive(
    "SWEEP_SECONDS", 5
)  # rescue expired leases and wake queued rows this often
UNCOVERED = _choice(
    "UNCOVERED", "teacher", ("teacher", "student", "refuse")
)  # who makes pictures of a variant that the active student was not made for
MAX_TRIES = _whole(
    "MAX_TRIES", 0, most=10
)  # pictures made for an image while the detector finds fault; 0: it is not asked
JUDGED_SHARE = _share(
    "JUDGED_SHARE", 0.05
)  # of the other images, judged to know how a release does
RESULT_JUDGE = "distillation.detectors.result_judge.judge"
MATCH_THRESHOLD = _share(
    "MATCH_THRESHOLD", 0.98
)  # how near a text must be to a prompt variant's to mean it; 1: only the same text does
LOADED_RELEASES = _count(
    "LOADED_RELEASES", 3
)  # kept on a device: student, teacher, and the one that is served next
ENCODE_BATCH_SIZE = _count("ENCODE_BATCH_SIZE", 128)
IMAGE_CACHE_SECONDS = _count("IMAGE_CACHE_SECONDS", 7 * 24 * 3600)
IMAGE_CACHE_ENTRIES = _count("IMAGE_CACHE_ENTRIES", 100_000)
LINK_SECONDS = _count("LINK_SECONDS", 24 * 3600)  # how long a signed link to an image works
RETENTION_DAYS = _whole(
    "RETENTION_DAYS", 0, most=36_500
)  # after the end of a job its images are removed; 0: never
FILES_IN_USE = [
    "distillation.examples.lifecycle.files_in_use"
]  # of stored files, those that other apps need
WEBHOOK_PRIVATE_HOSTS = env.bool(
    "WEBHOOK_PRIVATE_HOSTS", default=False
)  # whether webhooks may go to addresses of private networks, and over http
WEBHOOK_KEPT_DAYS = _count("WEBHOOK_KEPT_DAYS", 30)  # deliveries that were made or given up
WORKER_STALE_SECONDS = _positive(
    "WORKER_STALE_SECONDS", 15
)  # a worker without a heartbeat for this long is gone
DEAF_SECONDS = _positive(
    "DEAF_SECONDS", 15
)  # an idle worker that no message reached while jobs waited exits

# --- Device (read by the workers; the engine decides what "auto" means, in engine/device.py) ------
DEVICE = env.str("DEVICE", default="auto")
DTYPE = _choice("DTYPE", "auto", ("auto", "float32", "float16", "bfloat16"))
TORCH_THREADS = int(env.int("TORCH_THREADS", default=0))  # 0: torch decides
WORKER_NAME = env.str("WORKER_NAME", default=f"{socket.gethostname()}-{os.getpid()}")

# --- Redistillation -------------------------------------------------------------------------------
DISTILLATION_RECIPE = env.str(
    "DISTILLATION_RECIPE", default="starter-1step"
)  # a name, or a JSON file of changes to one
DISTILLATION_DETECTOR = env.str(
    "DISTILLATION_DETECTOR", default=""
)  # a folder; of the starter's teacher its own without it
NSFW_BIT = env.bool(
    "NSFW_BIT", default=False
)  # whether pictures are judged for nudity too, by the library nudenet
DISTILLATION_CLIP = env.str("DISTILLATION_CLIP", default="")  # likewise
DISTILLATION_YIELDS = env.bool(
    "DISTILLATION_YIELDS", default=True
)  # stand still while jobs wait: for machines where both share a device
SLICE_SECONDS = _positive("SLICE_SECONDS", 120)  # what a killed distillation worker costs at most
PROMOTION = _choice(
    "PROMOTION", "auto", ("auto", "canary", "manual")
)  # of a release that passed the gate
CANARY_PERCENT = _count("CANARY_PERCENT", 10)  # of the jobs, for a release that is tried
CANARY_JOBS = _count("CANARY_JOBS", 200)  # that it must have served without getting worse
IMAGE_SOURCE_ROOTS = env.list(
    "IMAGE_SOURCE_ROOTS", default=[]
)  # folders below which image sources may lie; empty: DATA_DIR/sources
IMAGE_SOURCE_PRIVATE_HOSTS = env.bool(
    "IMAGE_SOURCE_PRIVATE_HOSTS", default=False
)  # whether image sources may be fetched from addresses of private networks
REDISTIL_NEW_VARIANTS = _count("REDISTIL_NEW_VARIANTS", 1)  # not covered, before a run is begun
REDISTIL_SETTLED_SECONDS = _positive(
    "REDISTIL_SETTLED_SECONDS", 600
)  # the catalogue must have rested this long
REDISTIL_AGE_DAYS = int(env.int("REDISTIL_AGE_DAYS", default=0))  # 0: age is no reason
REDISTIL_FAILING_SHARE = _share(
    "REDISTIL_FAILING_SHARE", 0
)  # of the judged images, for sure; 0: no reason
REDISTIL_WINDOW_DAYS = _count("REDISTIL_WINDOW_DAYS", 7)  # in which they are counted

# --- API ------------------------------------------------------------------------------------------
LOCAL_API_KEY = env.str(
    "LOCAL_API_KEY", default=""
)  # `manage.py bootstrap` makes sure that this key exists
REQUESTS_PER_MINUTE = _whole(
    "REQUESTS_PER_MINUTE", 0, most=1_000_000
)  # of a key that says nothing else; 0: no limit
MAX_QUEUED_JOBS = _whole(
    "MAX_QUEUED_JOBS", 10_000, most=10_000_000
)  # more are refused, unless stored images answer them; 0: no limit
OPENAI_WAIT_SECONDS = _positive(
    "OPENAI_WAIT_SECONDS", 540
)  # the route of OpenAI keeps its clients; they themselves give up after 600
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["generation.api.authentication.APIKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["generation.api.authentication.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["generation.api.throttling.KeyThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["generation.api.parsers.StrictJSON"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "generation.api.views.problem_responses.handle",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Retort",
    "DESCRIPTION": "Pictures for a catalogue of prompts.",
    "VERSION": "v1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "FileFormat": "generation.models.Job.Format",
        "JobStatus": "generation.models.Job.Status",
        "JobCache": "generation.models.Job.Cache",
        "WebhookEvent": "generation.models.Delivery.Event",
        "DeliveryStatus": "generation.models.Delivery.Status",
        "RunStatus": "distillation.models.Run.Status",
        "RunOutcome": "distillation.models.Run.Outcome",
        "RunTrigger": "distillation.models.Run.Trigger",
        "RunPolicy": "distillation.models.Run.Policy",
        "ReleaseKind": "generation.models.Release.Kind",
        "ReleaseStatus": "generation.models.Release.Status",
    },
}

# --- The page at / --------------------------------------------------------------------------------
LOGIN_URL = "login"  # the admin has its own
LOGIN_REDIRECT_URL = "home"
CSRF_FAILURE_VIEW = "generation.page.responses.csrf_failed"

# --- Admin ----------------------------------------------------------------------------------------
IMPORT_EXPORT_USE_TRANSACTIONS = True  # all or nothing
UNFOLD = {
    "SITE_TITLE": "Retort",
    "SITE_HEADER": "Retort",
    "SITE_SYMBOL": "experiment",
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("generation/favicon.svg"),
        }
    ],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "generation.admin.dashboard.summary",
    "STYLES": [lambda request: static("generation/admin.css")],
    "SIDEBAR": {
        "show_search": True,
        "navigation": [
            {
                "title": "Pictures",
                "items": [
                    {
                        "title": "Prompt catalogue",
                        "icon": "menu_book",
                        "link": reverse_lazy("admin:generation_promptvariant_changelist"),
                    },
                    {
                        "title": "Jobs",
                        "icon": "pending_actions",
                        "link": reverse_lazy("admin:generation_job_changelist"),
                    },
                    {
                        "title": "Releases",
                        "icon": "deployed_code",
                        "link": reverse_lazy("admin:generation_release_changelist"),
                    },
                    {
                        "title": "Workers",
                        "icon": "memory",
                        "link": reverse_lazy("admin:generation_worker_changelist"),
                    },
                    {
                        "title": "Webhooks",
                        "icon": "webhook",
                        "link": reverse_lazy("admin:generation_webhookendpoint_changelist"),
                    },
                    {
                        "title": "Webhook deliveries",
                        "icon": "outbox",
                        "link": reverse_lazy("admin:generation_delivery_changelist"),
                    },
                ],
            },
            {
                "title": "Redistillation",
                "separator": True,
                "items": [
                    {
                        "title": "Runs",
                        "icon": "cycle",
                        "link": reverse_lazy("admin:distillation_run_changelist"),
                    },
                    {
                        "title": "Evaluations",
                        "icon": "compare",
                        "link": reverse_lazy("admin:distillation_evaluation_changelist"),
                    },
                    {
                        "title": "Decisions",
                        "icon": "rule",
                        "link": reverse_lazy("admin:distillation_decision_changelist"),
                    },
                    {
                        "title": "Image sources",
                        "icon": "folder_open",
                        "link": reverse_lazy("admin:distillation_imagesource_changelist"),
                    },
                    {
                        "title": "Examples",
                        "icon": "photo_library",
                        "link": reverse_lazy("admin:distillation_example_changelist"),
                    },
                    {
                        "title": "Detectors",
                        "icon": "troubleshoot",
                        "link": reverse_lazy("admin:distillation_detector_changelist"),
                    },
                    {
                        "title": "Schedule",
                        "icon": "schedule",
                        "link": reverse_lazy("admin:django_celery_beat_periodictask_changelist"),
                    },
                ],
            },
            {
                "title": "Access",
                "separator": True,
                "items": [
                    {
                        "title": "API keys",
                        "icon": "key",
                        "link": reverse_lazy("admin:generation_apikey_changelist"),
                    },
                    {
                        "title": "Users",
                        "icon": "person",
                        "link": reverse_lazy("admin:auth_user_changelist"),
                    },
                    {
                        "title": "Groups",
                        "icon": "group",
                        "link": reverse_lazy("admin:auth_group_changelist"),
                    },
                    {
                        "title": "Audit log",
                        "icon": "history",
                        "link": reverse_lazy("admin:generation_auditentry_changelist"),
                    },
                ],
            },
        ],
    },
}

# --- Celery. Each line is there against a known hazard. -------------------------------------------
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_DEFAULT_QUEUE = "light"
CELERY_TASK_QUEUES = [
    Queue(name)
    for name in ("generation", "reference", "encode", "distillation", "webhooks", "light")
]
CELERY_TASK_CREATE_MISSING_QUEUES = (
    False  # a typing error in a route is an error, not a queue that nobody reads
)
CELERY_TASK_ROUTES = {
    "generation.serve": {"queue": "generation"},
    "generation.encode": {"queue": "encode"},
    "generation.deliver": {"queue": "webhooks"},
    "generation.match": {"queue": "encode"},
    "distillation.wake": {"queue": "distillation"},
    "distillation.clean": {"queue": "distillation"},  # which has the libraries that know pairs
    "distillation.curate": {"queue": "distillation"},
}
# Rows are the truth: nobody reads results, so no result keys pile up in Redis, and no image passes through it.
CELERY_TASK_IGNORE_RESULT = True
# A message is a hint: acknowledged early, so that the visibility timeout never runs one twice.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # a busy worker hides at most one message from an idle one
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True  # a worker may be up before Redis
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # the default gives up after 100
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False  # finished work is kept
CELERY_WORKER_ENABLE_REMOTE_CONTROL = (
    False  # a busy solo worker cannot answer; liveness is the heartbeat row
)
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 60,  # longer than any task that acknowledges late
    "unacked_restore_interval": 5,  # with the defaults (10 × 10 s) redelivery waits for 100 s
    "unacked_restore_throttle": 1,
    "health_check_interval": 10,  # drops a half-open connection: the worker that has gone deaf
    "socket_keepalive": True,
    "socket_connect_timeout": 5,
    "retry_on_timeout": True,
}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]  # no pickle
CELERY_TIMEZONE = TIME_ZONE
# Unread hints do not pile up while nobody consumes: the next one says the same.
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "generation.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS},
    },
    "forget-webhooks": {
        "task": "generation.forget_webhooks",
        "schedule": crontab(hour="3", minute="10"),
        "options": {"expires": 3600},
    },
    "encode-missing": {"task": "generation.encode", "schedule": 60.0, "options": {"expires": 60}},
    "sweep-runs": {
        "task": "distillation.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS},
    },
    "watch-canary": {
        "task": "distillation.watch_canary",
        "schedule": 15.0,
        "options": {"expires": 15},
    },
    "refresh-image-sources": {
        "task": "distillation.refresh_sources",
        "schedule": crontab(hour="1", minute="30"),
        "options": {"expires": 3600},
    },
    "clean-images": {
        "task": "generation.clean",
        "schedule": crontab(hour="3", minute="30"),
        "options": {"expires": 3600},
    },
    "clean-distillation": {
        "task": "distillation.clean",
        "schedule": crontab(hour="4", minute="30"),
        "options": {"expires": 12 * 3600},  # a run may last until then
    },
    "consider-redistillation": {
        "task": "distillation.consider",
        "schedule": crontab(hour="2", minute="30"),
        "options": {"expires": 3600},
    },
}
# The schedule is in the database, for people to change; what is here is put there when it is missing.
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"

# --- Logs: JSON lines for machines, colours for a terminal ----------------------------------------
LOG_LEVEL = _choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = _choice("LOG_FORMAT", "json", ("json", "console"))
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG  # the line at a request's end says it all
_SHARED_PROCESSORS: list = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]
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

"""Django itself: applications, middleware, templates, security, the page at /, the admin site."""

from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

from project.settings import environment

VERSION = "0.1.0"  # of Retort, as in pyproject.toml, which container images lack
DEBUG = environment.flag("DEBUG", False)
SECRET_KEY = environment.env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(50))' "
        "(`make run` and `make test` make their own)."
    )
# Earlier keys: their signatures stay valid, new ones are not made with them.
SECRET_KEY_FALLBACKS = environment.env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = environment.env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = environment.env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "generation",  # before unfold, since it extends templates of the same name
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
    "distillation",
    "project",  # for its commands
]
MIDDLEWARE = [
    "project.middleware.request_metrics",
    "django.middleware.security.SecurityMiddleware",
    "project.headers.content_security_policy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "project.middleware.session_key",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "project.middleware.Common",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "project.middleware.RequestLog",
    "project.middleware.AdminValues",
    "generation.api.middleware.actor",
    "generation.api.middleware.rate_limit",
]
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
# Header in which a proxy passes the name of the account that it has authenticated.
LOGIN_HEADER = environment.env.str("LOGIN_HEADER", default="")
if LOGIN_HEADER:
    _after = MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1
    MIDDLEWARE.insert(_after, "project.sign_on.ProxyLogin")
    AUTHENTICATION_BACKENDS.insert(0, "project.sign_on.KnownAccounts")
ROOT_URLCONF = "project.urls"
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
FORMAT_MODULE_PATH = "project.formats"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]

HSTS_SECONDS = environment.whole("HSTS_SECONDS", 2_592_000, most=63_072_000)  # 30 days
# Behind a proxy that terminates TLS and sets X-Forwarded-Proto.
if environment.flag("BEHIND_TLS_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = HSTS_SECONDS
    SECURE_REDIRECT_EXEMPT = [
        r"^health/",
        r"^metrics$",
    ]  # probed inside the cluster, over plain HTTP

# The process exits when for this time all threads have been busy and none has completed a request.
WEB_STUCK_SECONDS = environment.positive("WEB_STUCK_SECONDS", 60)

# --- The page at / ------------------------------------------------------------------------------
LOGIN_URL = "login"  # the admin has its own
LOGIN_REDIRECT_URL = "home"
CSRF_FAILURE_VIEW = "generation.page.responses.csrf_failed"

# --- The admin -----------------------------------------------------------------------------------
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
    "DASHBOARD_CALLBACK": "distillation.admin.dashboard.summary",
    "STYLES": [lambda request: static("generation/admin.css")],
    "SCRIPTS": [lambda request: static("generation/admin.js")],
    # Unfold's colours with another lightness: text in them has a contrast of 4.5 on every background.
    "COLORS": {
        "base": {"500": "oklch(53% .027 264.364)"},
        "primary": {"500": "oklch(69.5% .22 304.5)"},
    },
    "SIDEBAR": {
        "show_search": True,
        "navigation": "generation.admin.navigation.navigation",
    },
}

"""PostgreSQL, Redis, local folders, and the object store."""

import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from project.settings import environment

BASE_DIR = Path(__file__).resolve().parents[2]


# --- PostgreSQL ----------------------------------------------------------------------------------
def _database() -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # django-environ's warning contains the password
            found: dict[str, Any] = environment.env.db_url(
                "DATABASE_URL", default="postgres://postgres@127.0.0.1:5432/retort"
            )
    except ValueError:  # a malformed port
        found = {}
    is_named = found.get("NAME") or "service" in found.get("OPTIONS", {})
    if found.get("ENGINE") != "django.db.backends.postgresql" or not is_named:
        raise ImproperlyConfigured(
            "DATABASE_URL must name a PostgreSQL database (postgres://user:password@host:port/name)."
        )
    return found


DATABASES = {"default": _database()}
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True  # for PgBouncer in transaction mode
DATABASES["default"]["CONN_MAX_AGE"] = 60  # web threads and workers are long-lived
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # reconnect after a restart of PostgreSQL
_has_standbys = "," in DATABASES["default"].get("HOST", "")
DATABASES["default"]["OPTIONS"] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # milliseconds: an unreachable host must not block the web's threads
    # Of several hosts, use the one that accepts writes, also after a failover.
    **({"target_session_attrs": "read-write"} if _has_standbys else {}),
    **DATABASES["default"].get("OPTIONS", {}),
}


# --- Redis ---------------------------------------------------------------------------------------
def _is_of_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
    except ValueError:
        return False
    number = parts.path.strip("/")
    is_of_network = parts.scheme in ("redis", "rediss") and (not number or number.isdecimal())
    return is_of_network or (parts.scheme == "unix" and bool(number))


REDIS_URL = environment.env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
if not _is_of_redis(REDIS_URL):
    raise ImproperlyConfigured(
        "REDIS_URL must name a Redis server (redis://:password@host:port/number, rediss:// with TLS, unix:///path)."
    )

# --- Folders -------------------------------------------------------------------------------------
DATA_DIR = Path(
    environment.env.str("DATA_DIR", default=str(BASE_DIR / ".retort" / "data"))
).absolute()
MEDIA_ROOT = DATA_DIR / "media"
RELEASES_ROOT = DATA_DIR / "releases"
BACKUP_MAX_AGE_DAYS = environment.whole("BACKUP_MAX_AGE_DAYS", 7, most=36_500)
RUNTIMES_DIR = DATA_DIR / "runtimes"  # converted networks and measurements; may be deleted
_collected = environment.env.str("STATIC_ROOT", default="")
STATIC_ROOT = Path(_collected).absolute() if _collected else None
STATIC_URL = "/static/"
# Without STATIC_ROOT files are served from the packages, so that a laptop needs no collectstatic.
WHITENOISE_USE_FINDERS = STATIC_ROOT is None or not STATIC_ROOT.is_dir()
WHITENOISE_AUTOREFRESH = False

# --- Images in an object store -------------------------------------------------------------------
S3_BUCKET = environment.env.str("S3_BUCKET", default="")
S3_ENDPOINT_URL = environment.env.str("S3_ENDPOINT_URL", default="")
S3_REGION = environment.env.str("S3_REGION", default="")
S3_PREFIX = environment.env.str("S3_PREFIX", default="")
S3_DELIVERY = environment.choice("S3_DELIVERY", "redirect", ("redirect", "serve"))


def object_store(
    bucket: str, *, endpoint_url: str = "", region: str = "", prefix: str = ""
) -> dict[str, object]:
    """Return an entry of STORAGES. boto3 finds the credentials: environment, profile, or the machine's role."""
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
        # Not every S3-compatible store supports the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    options = {
        "bucket_name": bucket,
        "endpoint_url": endpoint_url or None,
        "region_name": region or None,
        "location": prefix.strip("/"),
        "file_overwrite": True,  # names are content hashes
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

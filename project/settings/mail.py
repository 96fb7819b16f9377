"""E-mail: recipients and server. Without EMAIL_TO nothing is sent."""

from django.core.exceptions import ImproperlyConfigured

from project.settings import environment

MANAGERS = [("", address) for address in environment.env.list("EMAIL_TO", default=[])]
_url = environment.env.str("EMAIL_URL", default="")
if MANAGERS and not _url:
    raise ImproperlyConfigured(
        "EMAIL_TO is set, but EMAIL_URL is not. Give the mail server, such as smtp+tls://user:password@host:587."
    )
try:
    _server = environment.env.email_url_config(_url or "smtp://")
except (ImproperlyConfigured, ValueError) as error:
    raise ImproperlyConfigured(
        "EMAIL_URL must name a mail server, such as smtp+tls://user:password@host:587."
    ) from error
EMAIL_BACKEND = _server["EMAIL_BACKEND"]
EMAIL_HOST = _server["EMAIL_HOST"] or "localhost"
EMAIL_PORT = _server["EMAIL_PORT"] or 25
EMAIL_HOST_USER = _server["EMAIL_HOST_USER"] or ""
EMAIL_HOST_PASSWORD = _server["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS = _server.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _server.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10  # seconds: a thread of the light worker waits
SERVER_EMAIL = environment.env.str("EMAIL_FROM", default="retort@localhost")
EMAIL_SUBJECT_PREFIX = "[Retort] "

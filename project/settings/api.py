"""The REST API and its description."""

from project.settings import environment

LOCAL_API_KEY = environment.env.str("LOCAL_API_KEY", default="")
METRICS_TOKEN = environment.env.str("METRICS_TOKEN", default="")  # empty: /metrics is closed
REQUESTS_PER_MINUTE = environment.whole("REQUESTS_PER_MINUTE", 0, most=1_000_000)
MAX_QUEUED_JOBS = environment.whole("MAX_QUEUED_JOBS", 10_000, most=10_000_000)
# Permissions that a key's owner, and a person who gives a key the scope, need for it. Other scopes need none.
SCOPE_PERMISSIONS = {
    "variants:write": ["generation.add_promptvariant", "generation.change_promptvariant"],
    "releases:read": ["generation.view_release", "distillation.view_run"],
    "releases:write": ["distillation.add_run", "distillation.change_run"],
    "queues:write": ["generation.change_queue"],
}
OPENAI_WAIT_SECONDS = environment.positive("OPENAI_WAIT_SECONDS", 540)
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["generation.api.authentication.APIKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["generation.api.authentication.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["generation.api.throttling.KeyThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["generation.api.parsers.StrictJSON"],
    "DEFAULT_SCHEMA_CLASS": "generation.api.openapi.Operation",
    "EXCEPTION_HANDLER": "generation.api.views.problem_responses.handle",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Retort",
    "DESCRIPTION": "Images for a catalogue of prompts. [The guide](/v1/guide) explains what this list cannot: "
    "ways to wait, webhooks, clients of OpenAI and Replicate, limits, errors.\n\nTo try an operation, press "
    "*Authorize* and give an API key, which staff make in [the admin](/admin/generation/apikey/).",
    "SORT_OPERATIONS": False,
    "TAGS": [
        {"name": name, "description": about}
        for name, about in (
            ("Jobs", "Create images, watch and cancel."),
            ("Images", "Files and thumbnails."),
            ("Catalogue", "Prompt variants, and the releases that serve them."),
            ("Account", "Your key, its limits and its usage."),
            ("Webhooks", "Signed messages about jobs."),
            ("OpenAI", "Routes for OpenAI's clients."),
            ("Replicate", "Routes for Replicate's clients."),
            ("Releases", "Teachers and students that generate."),
            ("Runs", "Distillations that make releases."),
            ("Designs", "Searches for a student within limits."),
            ("Queues", "Pause and resume queues of jobs."),
        )
    ],
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "tryItOutEnabled": True},
    "VERSION": "v1",
    "OAS_VERSION": "3.1.0",
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "FileFormat": "generation.models.Job.Format",
        "JobStatus": "generation.models.Job.Status",
        "JobCache": "generation.models.Job.Cache",
        "WebhookEvent": "generation.models.Delivery.Event",
        "DeliveryStatus": "generation.models.Delivery.Status",
        "DesignStatus": "distillation.models.Design.Status",
        "RunStatus": "distillation.models.Run.Status",
        "RunOutcome": "distillation.models.Run.Outcome",
        "RunTrigger": "distillation.models.Run.Trigger",
        "RunPolicy": "distillation.models.Run.Policy",
        "VariantStatus": "generation.models.PromptVariant.Status",
        "ReleaseKind": "generation.models.Release.Kind",
        "ReleaseStatus": "generation.models.Release.Status",
    },
}

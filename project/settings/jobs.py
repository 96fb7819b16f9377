"""Jobs, workers and devices."""

import os
import socket

from django.core.exceptions import ImproperlyConfigured

from project.settings import environment

BATCH_SIZE = environment.count("BATCH_SIZE", 8)
LEASE_SECONDS = environment.positive("LEASE_SECONDS", 20)
MAX_ATTEMPTS = environment.count("MAX_ATTEMPTS", 3)
RETRY_PAUSE_SECONDS = environment.positive("RETRY_PAUSE_SECONDS", 2)
STALL_SECONDS = environment.positive("STALL_SECONDS", 60)
MAX_IMAGES_PER_JOB = environment.count("MAX_IMAGES_PER_JOB", 10)
SWEEP_SECONDS = environment.positive("SWEEP_SECONDS", 5)
UNCOVERED = environment.choice("UNCOVERED", "teacher", ("teacher", "student", "refuse"))
QUALITY_FLOOR = environment.share("QUALITY_FLOOR", 0.0)
MAX_TRIES = environment.whole("MAX_TRIES", 0, most=10)
JUDGED_SHARE = environment.share("JUDGED_SHARE", 0.05)
RESULT_JUDGE = "distillation.detectors.result_judge.judge"
TAG_KINDS = "distillation.detectors.registry.tag_kinds"
MATCH_THRESHOLD = environment.share("MATCH_THRESHOLD", 0.98)
STOCK = environment.whole("STOCK", 0, most=1000)
VARIANT_IMAGES = environment.flag("VARIANT_IMAGES", True)
LOADED_RELEASES = environment.count("LOADED_RELEASES", 3)
IMAGE_CACHE_SECONDS = environment.count("IMAGE_CACHE_SECONDS", 7 * 24 * 3600)
IMAGE_CACHE_ENTRIES = environment.count("IMAGE_CACHE_ENTRIES", 100_000)
LINK_SECONDS = environment.count("LINK_SECONDS", 24 * 3600)
RETENTION_DAYS = environment.whole("RETENTION_DAYS", 0, most=36_500)
FILES_IN_USE = [
    "distillation.examples.lifecycle.files_in_use"
]  # functions of other apps that return which stored files they need
GAUGES = ["distillation.runs.gauges.collect"]  # functions of other apps, for /metrics
WEBHOOK_PRIVATE_HOSTS = environment.flag("WEBHOOK_PRIVATE_HOSTS", False)
WEBHOOK_KEPT_DAYS = environment.count("WEBHOOK_KEPT_DAYS", 30, most=36_500)
WORKER_STALE_SECONDS = environment.positive("WORKER_STALE_SECONDS", 15)
DEAF_SECONDS = environment.positive("DEAF_SECONDS", 15)

# --- Device (read by the workers; engine/device.py resolves "auto") ------------------------------
DEVICE = environment.env.str("DEVICE", default="auto")
DTYPE = environment.choice("DTYPE", "auto", ("auto", "float32", "float16", "bfloat16"))
RUNTIME = environment.choice("RUNTIME", "auto", ("auto", "torch", "openvino"))
TORCH_THREADS = environment.whole("TORCH_THREADS", 0, most=4096)
WORKER_NAME = environment.env.str("WORKER_NAME", default=f"{socket.gethostname()}-{os.getpid()}")
if not 0 < len(WORKER_NAME) <= 120:
    raise ImproperlyConfigured(
        f"WORKER_NAME has {len(WORKER_NAME)} characters. Give 1 to 120, or leave it unset."
    )

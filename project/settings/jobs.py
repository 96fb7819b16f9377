"""Jobs, workers and devices."""

import os
import socket

from project.settings import environment

BATCH_SIZE = environment.count("BATCH_SIZE", 8)  # most images in one UNet call
LEASE_SECONDS = environment.positive(
    "LEASE_SECONDS", 20
)  # a silent worker loses its jobs after this long
MAX_ATTEMPTS = environment.count("MAX_ATTEMPTS", 3)  # failed attempts before a job fails for good
MAX_IMAGES_PER_JOB = environment.count("MAX_IMAGES_PER_JOB", 10)
SWEEP_SECONDS = environment.positive(
    "SWEEP_SECONDS", 5
)  # rescue expired leases and wake queued rows this often
UNCOVERED = environment.choice(
    "UNCOVERED", "teacher", ("teacher", "student", "refuse")
)  # who makes pictures of a variant that the active student was not made for
MAX_TRIES = environment.whole(
    "MAX_TRIES", 0, most=10
)  # pictures made for an image while the detector finds fault; 0: it is not asked
JUDGED_SHARE = environment.share(
    "JUDGED_SHARE", 0.05
)  # of the other images, judged to know how a release does
RESULT_JUDGE = "distillation.detectors.result_judge.judge"
MATCH_THRESHOLD = environment.share(
    "MATCH_THRESHOLD", 0.98
)  # how near a text must be to a prompt variant's to mean it; 1: only the same text does
LOADED_RELEASES = environment.count(
    "LOADED_RELEASES", 3
)  # kept on a device: student, teacher, and the one that is served next
ENCODE_BATCH_SIZE = environment.count("ENCODE_BATCH_SIZE", 128)
IMAGE_CACHE_SECONDS = environment.count("IMAGE_CACHE_SECONDS", 7 * 24 * 3600)
IMAGE_CACHE_ENTRIES = environment.count("IMAGE_CACHE_ENTRIES", 100_000)
LINK_SECONDS = environment.count(
    "LINK_SECONDS", 24 * 3600
)  # how long a signed link to an image works
RETENTION_DAYS = environment.whole(
    "RETENTION_DAYS", 0, most=36_500
)  # after the end of a job its images are removed; 0: never
FILES_IN_USE = [
    "distillation.examples.lifecycle.files_in_use"
]  # of stored files, those that other apps need
WEBHOOK_PRIVATE_HOSTS = environment.env.bool(
    "WEBHOOK_PRIVATE_HOSTS", default=False
)  # whether webhooks may go to addresses of private networks, and over http
WEBHOOK_KEPT_DAYS = environment.count(
    "WEBHOOK_KEPT_DAYS", 30
)  # deliveries that were made or given up
WORKER_STALE_SECONDS = environment.positive(
    "WORKER_STALE_SECONDS", 15
)  # a worker without a heartbeat for this long is gone
DEAF_SECONDS = environment.positive(
    "DEAF_SECONDS", 15
)  # an idle worker that no message reached while jobs waited exits

# --- Device (read by the workers; engine/device.py resolves "auto") ------------------------------
DEVICE = environment.env.str("DEVICE", default="auto")
DTYPE = environment.choice("DTYPE", "auto", ("auto", "float32", "float16", "bfloat16"))
TORCH_THREADS = int(environment.env.int("TORCH_THREADS", default=0))  # 0: torch decides
WORKER_NAME = environment.env.str("WORKER_NAME", default=f"{socket.gethostname()}-{os.getpid()}")

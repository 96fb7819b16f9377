"""Images through the whole stack: files, thumbnails, metadata; removal by DELETE and by age."""

import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.acceptance.stack import Stack, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def completed_job(stack: Stack, **fields) -> dict:
    """Submit a job, wait until it has succeeded, and return it."""
    job = stack.submit(model="quick", **fields)
    (job,) = stack.ended([job["id"]])
    assert job["status"] == "succeeded", job
    return job


def files(stack: Stack, job: dict) -> list[Path]:
    """Return the job's files on the disk, including thumbnails."""
    rows = stack.query("SELECT file, master FROM generation_image WHERE job_id = %s", job["id"])
    media = Path(stack.run["data_dir"]) / "media"
    names = {name for row in rows for name in (row["file"], row["master"])}
    small = media / "thumbnails"
    return [media / name for name in names] + [
        path for name in names for path in small.rglob(f"{Path(name).stem}.webp")
    ]


def test_deleting_a_job_removes_its_files_and_the_same_request_is_computed_again(
    stack: Stack, variants: list[str]
):
    request = {"variant": variants[0], "seed": 501, "n": 2}
    job = completed_job(stack, **request)
    image = job["images"][0]
    small = httpx.get(image["thumbnail_url"])
    assert (small.status_code, small.headers["Content-Type"]) == (200, "image/webp")
    assert max(Image.open(io.BytesIO(small.content)).size) <= 256
    assert httpx.head(image["url"]).headers["Content-Length"] == str(image["size_bytes"])
    paths = files(stack, job)
    assert len(paths) == 5 and all(path.is_file() for path in paths)
    assert completed_job(stack, **request)["cache"] == "hit"
    for same in stack.query("SELECT id FROM generation_job WHERE seed = 501 AND n = 2"):
        assert stack.http.delete(f"/v1/jobs/{same['id']}").status_code == 204

    assert [path for path in paths if path.exists()] == []
    for answer in (
        stack.http.get(f"/v1/jobs/{job['id']}"),
        stack.http.get(f"/v1/images/{image['id']}"),
        httpx.get(image["url"]),
        httpx.get(image["thumbnail_url"]),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "job_purged")
    again = completed_job(stack, **request)
    assert again["cache"] == "miss"
    assert [row["sha256"] for row in again["images"]] == [row["sha256"] for row in job["images"]]
    assert all(path.is_file() for path in files(stack, again))


def test_deleting_a_running_job_cancels_its_attempt(stack: Stack, variants: list[str]):
    job_id = stack.submit(variant=variants[0], model="slow", seed=502)["id"]
    stack.running_on(job_id)

    assert stack.http.delete(f"/v1/jobs/{job_id}").status_code == 204

    assert stack.http.get(f"/v1/jobs/{job_id}").status_code == 410
    wait_for(lambda: stack.attempts(job_id) == [(1, "canceled")], "the attempt is canceled")


@pytest.mark.parametrize(("output_format", "seed"), [("webp", 511), ("png", 512), ("jpeg", 513)])
def test_only_files_of_jobs_with_metadata_state_how_they_were_made(
    stack: Stack, variants: list[str], output_format: str, seed: int
):
    request = {"variant": variants[1], "seed": seed, "output_format": output_format}
    described = completed_job(stack, **request, metadata=True)
    plain = completed_job(stack, **request)

    descriptions = []
    for job in (described, plain):
        content = httpx.get(job["images"][0]["url"]).content
        picture = Image.open(io.BytesIO(content))
        text = picture.info.get("Description") or picture.getexif().get(0x010E)
        descriptions.append(json.loads(text) if text else None)
        assert (b"Retort" in content) == bool(text)
    assert (descriptions[0]["job"], descriptions[0]["seed"], descriptions[0]["model"]) == (
        described["id"],
        seed,
        "quick",
    )
    assert descriptions[1] is None and plain["cache"] == "hit"
    assert described["metrics"]["encode_seconds"] > 0


def test_retention_removes_old_images_and_a_dry_run_only_reports_them(
    stack: Stack, variants: list[str]
):
    old = completed_job(stack, variant=variants[2], seed=504)
    young = completed_job(stack, variant=variants[2], seed=505)
    stack.query(
        "UPDATE generation_job SET finished_at = finished_at - interval '3 days' WHERE id = %s",
        old["id"],
    )
    gone, kept = files(stack, old), files(stack, young)
    stack.query("UPDATE generation_apikey SET retention_days = 2")
    try:
        dry = stack.manage("retention", "--dry-run")
        assert "Would delete the images of 1 job," in dry
        assert all(path.is_file() for path in gone)

        real = stack.manage("retention")
    finally:
        stack.query("UPDATE generation_apikey SET retention_days = NULL")

    assert "Deleted the images of 1 job," in real
    assert [path for path in gone if path.exists()] == []
    assert all(path.is_file() for path in kept)
    assert stack.http.get(f"/v1/jobs/{old['id']}").status_code == 410
    assert stack.job(young["id"])["images"][0]["id"] == young["images"][0]["id"]

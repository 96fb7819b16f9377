"""Images through the whole stack: files, thumbnails, metadata; removal by DELETE and by age."""

import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.acceptance.stack import Stack, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def made(stack: Stack, **fields) -> dict:
    """A job that has succeeded."""
    job = stack.submit(model="quick", **fields)
    (job,) = stack.ended([job["id"]])
    assert job["status"] == "succeeded", job
    return job


def files(stack: Stack, job: dict) -> list[Path]:
    """On the disk, thumbnails included."""
    rows = stack.query("SELECT file, master FROM generation_image WHERE job_id = %s", job["id"])
    media = Path(stack.run["data_dir"]) / "media"
    names = {name for row in rows for name in (row["file"], row["master"])}
    small = media / "thumbnails"
    return [media / name for name in names] + [
        path for name in names for path in small.rglob(f"{Path(name).stem}.webp")
    ]


def test_a_deleted_job_takes_its_files_along_and_the_same_request_is_computed_anew(
    stack: Stack, variants: list[str]
):
    asked = {"variant": variants[0], "seed": 501, "n": 2}
    job = made(stack, **asked)
    image = job["images"][0]
    small = httpx.get(image["thumbnail_url"])
    assert (small.status_code, small.headers["Content-Type"]) == (200, "image/webp")
    assert max(Image.open(io.BytesIO(small.content)).size) <= 256
    assert httpx.head(image["url"]).headers["Content-Length"] == str(image["size_bytes"])
    lying = files(stack, job)
    assert len(lying) == 5 and all(path.is_file() for path in lying)
    assert made(stack, **asked)["cache"] == "hit"
    for same in stack.query("SELECT id FROM generation_job WHERE seed = 501 AND n = 2"):
        assert stack.http.delete(f"/v1/jobs/{same['id']}").status_code == 204

    assert [path for path in lying if path.exists()] == []
    for answer in (
        stack.http.get(f"/v1/jobs/{job['id']}"),
        stack.http.get(f"/v1/images/{image['id']}"),
        httpx.get(image["url"]),
        httpx.get(image["thumbnail_url"]),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "job_purged")
    again = made(stack, **asked)
    assert again["cache"] == "miss"
    assert [row["sha256"] for row in again["images"]] == [row["sha256"] for row in job["images"]]
    assert all(path.is_file() for path in files(stack, again))


def test_a_job_that_runs_is_stopped_by_its_deletion(stack: Stack, variants: list[str]):
    job_id = stack.submit(variant=variants[0], model="slow", seed=502)["id"]
    stack.running_on(job_id)

    assert stack.http.delete(f"/v1/jobs/{job_id}").status_code == 204

    assert stack.http.get(f"/v1/jobs/{job_id}").status_code == 410
    wait_for(lambda: stack.attempts(job_id) == [(1, "canceled")], "the attempt is canceled")


@pytest.mark.parametrize(("output_format", "seed"), [("webp", 511), ("png", 512), ("jpeg", 513)])
def test_a_file_says_how_it_was_made_to_who_asked_for_that_alone(
    stack: Stack, variants: list[str], output_format: str, seed: int
):
    asked = {"variant": variants[1], "seed": seed, "output_format": output_format}
    told = made(stack, **asked, metadata=True)
    plain = made(stack, **asked)

    said = []
    for job in (told, plain):
        content = httpx.get(job["images"][0]["url"]).content
        picture = Image.open(io.BytesIO(content))
        text = picture.info.get("Description") or picture.getexif().get(0x010E)
        said.append(json.loads(text) if text else None)
        assert (b"Retort" in content) == bool(text)
    assert (said[0]["job"], said[0]["seed"], said[0]["model"]) == (told["id"], seed, "quick")
    assert said[1] is None and plain["cache"] == "hit"
    assert told["metrics"]["encode_seconds"] > 0


def test_images_go_by_age_and_a_dry_run_only_says_so(stack: Stack, variants: list[str]):
    old = made(stack, variant=variants[2], seed=504)
    young = made(stack, variant=variants[2], seed=505)
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

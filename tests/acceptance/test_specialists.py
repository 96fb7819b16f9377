"""Two students serve at once, each the prompts that it makes better, on real processes."""

from collections.abc import Iterator

import pytest

from tests.acceptance.stack import Stack

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

JUDGED = """
INSERT INTO generation_quality (release_id, normalized_text, evaluated, evaluated_right, judged, judged_right)
SELECT r.id, v.normalized_text, 4, %s, 0, 0 FROM generation_release r, generation_promptvariant v
 WHERE r.name = %s AND v.slug = %s
    ON CONFLICT (release_id, normalized_text) DO UPDATE SET evaluated = 4, evaluated_right = excluded.evaluated_right
"""


@pytest.fixture
def main(stack: Stack) -> Iterator[str]:
    """Activate a toy student for the time of a test and yield its name."""
    (before,) = stack.query(
        "SELECT name FROM generation_release WHERE kind = 'student' AND status = 'active'"
    )
    stack.manage("release", "activate", "quick")
    yield "quick"
    stack.manage("release", "activate", before["name"])
    stack.query("DELETE FROM generation_quality WHERE release_id IN "
                "(SELECT id FROM generation_release WHERE name IN ('quick', 'other'))")  # fmt: skip


def served_by(stack: Stack, slug: str) -> str:
    """Return the release that serves a job without a model. The catalogue must name it too."""
    job = stack.ended([stack.submit(variant=slug)["id"]])[0]
    assert job["status"] == "succeeded" and job["images"]
    assert stack.http.get(f"/v1/variants/{slug}").json()["served_by"] == job["model"]
    return str(job["model"])


def test_each_prompt_is_made_by_the_better_student_until_it_is_retired(
    stack: Stack, variants: list[str], main: str
):
    better, worse = variants[:2]
    for slug, of_main, of_other in ((better, 1, 4), (worse, 4, 1)):
        stack.query(JUDGED, of_main, main, slug)
        stack.query(JUDGED, of_other, "other", slug)
    assert served_by(stack, better) == main

    stack.manage("release", "activate", "other", "--specialist")
    statuses = {
        row["name"]: row["status"] for row in stack.http.get("/v1/releases").json()["results"]
    }
    assert (statuses[main], statuses["other"]) == ("active", "specialist")
    assert (served_by(stack, better), served_by(stack, worse)) == ("other", main)

    stack.manage("release", "retire", "other")
    assert served_by(stack, better) == main

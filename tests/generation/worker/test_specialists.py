"""Two toy students in service: each prompt is made by the better one, from the API to the picture."""

from pathlib import Path

import pytest

from generation.catalogue import encoding
from generation.infra import heartbeat
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases import specialists
from tests.client import API
from tests.factories import make_quality, make_variant
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)

TEXTS = ("a red glass vase", "a blue clay bowl")


@pytest.fixture
def students(tmp_path: Path, settings) -> dict[str, Release]:
    """The active student makes the bowl better, the specialist the vase."""
    settings.TORCH_THREADS = 1
    found = {}
    for name in ("main", "vases"):
        make_tiny_release(tmp_path / name, name=name, kind="student")
        found[name] = releases.register(tmp_path / name)
    for text in TEXTS:
        make_variant(text=text)
    assert encoding.encode_missing() == 0
    for name, counts in (("main", (1, 4)), ("vases", (4, 1))):
        for text, right in zip(TEXTS, counts, strict=True):
            make_quality(found[name], text, right)
    releases.activate(found["main"])
    specialists.activate(found["vases"])
    heartbeat.stopping.clear()
    return found


def test_each_prompt_is_made_by_the_better_student_until_it_is_retired(students, worker):
    api = API()

    def made_by(text: str) -> str:
        """Return the release of a job without a model, after checking that the catalogue lists the same."""
        job = api.post("/v1/jobs", {"text": text}).json()
        worker.run()
        ended = api.get(job["urls"]["self"]).json()
        assert (ended["status"], len(ended["images"])) == ("succeeded", 1)
        variant = api.get(f"/v1/variants/{'-'.join(text.split())}").json()
        assert variant["served_by"] == ended["model"]
        return str(ended["model"])

    assert [made_by(text) for text in TEXTS] == ["vases", "main"]
    statuses = {row["name"]: row["status"] for row in api.get("/v1/releases").json()["results"]}
    assert statuses == {"main": "active", "vases": "specialist"}
    assert worker.loaded.ids() == sorted(row.pk for row in students.values())

    specialists.retire(students["vases"])
    assert [made_by(text) for text in TEXTS] == ["main", "main"]

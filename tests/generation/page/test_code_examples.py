"""Requests that create the same job again over the API."""

import json
import re
import shlex

import pytest

from generation.models import Job
from tests.client import API
from tests.factories import make_image, make_job, make_release
from tests.page_client import Person, html

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.mark.parametrize(
    "fields", [{}, {"n": 3, "output_format": "png", "width": 32, "height": 32}]
)
def test_the_code_on_a_job_creates_the_same_job(fields):
    person = Person()
    release = make_release(image_sizes=((64, 64), (32, 32)))
    job = make_job(owner=person.user, release=release, status="succeeded", seed=7, **fields)
    make_image(job=job)

    page = html(person.get(f"/jobs/{job.id}"))
    curl, python = re.findall(r'<code id="code-\d">(.*?)</code>', page)
    sent = shlex.split(curl.replace("\\ ", ""))
    body = json.loads(sent[sent.index("--data") + 1])
    assert "http://testserver/v1/jobs" in sent

    answer = API(owner=person.user).post("/v1/jobs", body)
    assert answer.status_code == 202, answer.content
    again = Job.objects.get(id=answer.json()["id"])
    for name in ("variant", "release", "seed", "n", "width", "height", "output_format"):
        assert getattr(again, name) == getattr(job, name), name
    assert '"seed": 7' in python

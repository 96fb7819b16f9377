"""Querysets that are compiled once give what Django's own give."""

from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from generation.infra.compiled import Compiled, Insert
from generation.models import Embedding, Job, PromptVariant
from tests.people import make_embedding, make_job, make_variant

pytestmark = pytest.mark.django_db

JOBS = Compiled(
    lambda **given: (
        Job.objects.filter(owner_id=given["owner"], id=given["job_id"])
        .select_related("variant", "release")
        .defer("release__manifest")
    ),
    owner=-73,
    job_id=UUID(int=73),
)


def test_rows_come_with_what_belongs_to_them_and_with_nothing_else():
    job = make_job()
    JOBS.all(owner=0, job_id=UUID(int=0))

    with CaptureQueriesContext(connection) as asked:
        (found,) = JOBS.all(owner=job.owner_id, job_id=job.id)
        assert (found.variant.slug, found.release.name) == (job.variant.slug, job.release.name)

    assert len(asked) == 1
    assert found.release.get_deferred_fields() == {"manifest"}
    plain = Job.objects.get(id=job.id)
    for field in Job._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(plain, field.attname), field.name


def test_values_take_the_place_of_the_stand_ins_each_time():
    first, second = make_job(), make_job()

    assert JOBS.first(owner=first.owner_id, job_id=first.id) == first
    assert JOBS.first(owner=second.owner_id, job_id=second.id) == second
    assert JOBS.first(owner=first.owner_id + 1, job_id=first.id) is None


def test_a_value_is_never_taken_for_sql():
    make_variant(slug="mug", text="a mug")
    by_slug = Compiled(lambda slug: PromptVariant.objects.filter(slug=slug), slug="?slug?")

    assert by_slug.all(slug="' OR 1=1 --") == []
    assert [variant.slug for variant in by_slug.all(slug="mug")] == ["mug"]


def test_a_stand_in_that_the_query_does_not_use_is_an_error():
    with pytest.raises(ValueError, match="lost name"):
        Compiled(lambda name: PromptVariant.objects.all(), name="x").all(name="y")


@pytest.mark.django_db(transaction=True)
def test_a_version_changes_with_the_row_and_with_what_it_is_joined_with():
    embedding = make_embedding()
    rows = Compiled(
        lambda pk: Embedding.objects.select_related("variant").defer("data").filter(pk=pk),
        is_versioned=True,
        pk=-73,
    )

    def found() -> Embedding:
        (row,) = rows.all(pk=embedding.pk)
        return row

    first = found()
    assert (first.variant, found().version) == (embedding.variant, first.version)
    PromptVariant.objects.update(revision=1)
    second = found()
    assert second.version != first.version
    Embedding.objects.update(error="")
    assert found().version != second.version


def test_without_what_it_depends_on_no_row_is_inserted():
    row = make_job()
    insert = Insert(Job, where="%(wanted)s::int = 5", returning="seed")
    row.id = UUID(int=5)

    assert insert([row], wanted=4) == []
    assert Job.objects.count() == 1
    assert insert([row], wanted=5) == [(row.seed,)]
    assert Job.objects.count() == 2


def test_an_inserted_row_is_the_row_that_save_would_have_written():
    known = make_job(webhook_events=["start"])
    row = Job.objects.get(id=known.id)
    row.id = UUID(int=5)
    row.key = "another"

    Insert(Job)([row])

    written = Job.objects.get(id=row.id)
    for field in Job._meta.concrete_fields:
        assert getattr(written, field.attname) == getattr(row, field.attname), field.name
    row.seed = 77
    row.save()
    assert Job.objects.get(id=row.id).seed == 77

"""Several chosen pictures: zip, favourites, deletion after a confirmation."""

import io
import zipfile

import pytest

from generation.images import storage
from generation.models import Favourite, Image, Job
from generation.page import selection
from project.settings.storage import object_store
from tests.factories import make_image, make_job, make_release, make_variant
from tests.page_client import Person, html, words
from tests.silent_store import SilentStore
from tests.storage_faults import break_storage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

PATH = "/gallery/chosen"


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def done(person) -> Job:
    job = make_job(owner=person.user, status="succeeded", n=3, seed=41)
    for index in range(3):
        make_image(job=job, index=index, color=(index, 0, 0))
    return job


def ids(job: Job) -> list[str]:
    return [str(image.id) for image in job.images.all()]


def unzipped(answer) -> dict[str, bytes]:
    assert answer["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_has_the_files_named_by_prompt_and_seed(person, done):
    twin = make_job(owner=person.user, status="succeeded", seed=41)
    make_image(job=twin)
    foreign = make_image(job=make_job(owner=Person(username="somebody").user, status="succeeded"))
    chosen = [*ids(done)[:2], *ids(twin), str(foreign.id)]

    answer = person.post(PATH, {"do": "download", "image": chosen})

    files = unzipped(answer)
    assert sorted(files) == [
        "red-glass-vase-41-2.webp",
        "red-glass-vase-41.webp",
        "red-glass-vase-42.webp",
    ]
    assert files["red-glass-vase-42.webp"] == storage.read(done.images.get(index=1).file)
    assert answer["Content-Disposition"].startswith('attachment; filename="retort-')


def test_chosen_pictures_are_shown_side_by_side(person, done):
    other = make_job(owner=person.user, status="succeeded", seed=7, release=make_release(name="b"))
    make_image(job=other)
    answer = person.post(PATH, {"do": "compare", "image": [ids(done)[1], *ids(other)]})
    seen = html(answer)
    assert seen.count("<figure>") == 2 and "2 pictures side by side" in seen
    for word in ("seed 42", "seed 7", done.release.name, "b, 4 steps"):
        assert word in words(answer)
    alone = person.post(PATH, {"do": "compare", "image": ids(done)[:1]})
    assert alone.status_code == 400 and "Choose 2 to 6 pictures" in words(alone)


def test_a_file_that_is_missing_is_named_in_the_zip(person, done):
    storage.remove(done.images.get(index=0).file)
    storage.remove(done.images.get(index=0).master)
    files = unzipped(person.post(PATH, {"do": "download", "image": ids(done)}))
    assert b"red-glass-vase-41.webp" in files.pop("missing.txt")
    assert sorted(files) == ["red-glass-vase-42.webp", "red-glass-vase-43.webp"]


@pytest.mark.parametrize("fault", ["not mounted", "unreadable"])
def test_while_the_storage_fails_no_picture_of_a_zip_is_reported_as_missing(
    person, done, settings, fault
):
    break_storage(settings.MEDIA_ROOT, fault, done.images.filter(index=1))

    answer = person.post(PATH, {"do": "download", "image": ids(done)})

    assert answer.status_code == 503 and "Retry-After" in answer


def test_a_zip_stops_at_the_first_picture_that_an_object_store_does_not_answer(
    person, done, bucket, settings, monkeypatch
):
    monkeypatch.setattr(storage, "_breaker", None)
    with SilentStore(closes=True) as store:
        away = object_store("somewhere", endpoint_url=store.url, region="us-east-1")
        settings.STORAGES = {**settings.STORAGES, "default": away}
        storage.fail_fast()

        answer = person.post(PATH, {"do": "download", "image": ids(done)})

        assert answer.status_code == 503 and "Retry-After" in answer
        assert len(store.connections) == storage.IMPATIENT["retries"]["total_max_attempts"]


def test_too_many_bytes_for_one_zip_are_refused(person, done, monkeypatch):
    monkeypatch.setattr(selection, "MAX_BYTES", 100)
    answer = person.post(PATH, {"do": "download", "image": ids(done)})
    assert answer.status_code == 400 and "Choose at most" in words(answer)


def test_several_become_favourites_once(person, done):
    for _ in range(2):
        answer = person.post(PATH, {"do": "favourite", "image": ids(done)[:2]})
        assert answer["Location"] == "/gallery"
    assert Favourite.objects.filter(owner=person.user).count() == 2


def test_several_are_unmarked(person, done):
    person.post(PATH, {"do": "favourite", "image": ids(done)})
    kept, *others = ids(done)

    answer = person.post(PATH, {"do": "unmark", "image": others})

    assert answer.status_code == 302
    assert [str(pk) for pk in Favourite.objects.values_list("image", flat=True)] == [kept]


def test_deletion_asks_for_confirmation_and_removes_only_the_chosen_pictures(person, done):
    other = make_job(
        owner=person.user, status="succeeded", variant=make_variant(text="a blue bowl")
    )
    make_image(job=other)
    chosen = [ids(done)[0], *ids(other)]

    question = person.post(PATH, {"do": "delete", "image": chosen})
    assert "Delete 2 pictures?" in words(question) and Image.objects.count() == 4
    assert html(question).count('type="hidden" name="image"') == 2

    answer = person.post(PATH, {"do": "delete-now", "image": chosen})
    assert answer["Location"] == "/gallery"
    assert "2 pictures were deleted." in words(person.get("/gallery"))
    other.refresh_from_db()
    assert other.purged_at is not None and len(ids(done)) == 2


@pytest.mark.parametrize(
    "form", [{"do": "download"}, {"do": "delete"}, {}, {"do": "x", "image": "x"}]
)
def test_an_empty_choice_is_reported(person, form):
    assert person.post(PATH, form).status_code == 400


def test_pictures_of_others_cannot_be_chosen(person, done):
    answer = Person(username="somebody").post(PATH, {"do": "delete-now", "image": ids(done)})
    assert answer.status_code == 400 and Image.objects.count() == 3

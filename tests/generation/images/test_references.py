"""Concurrent insert of a reference and removal of its file: no row is left without its file."""

import threading
from pathlib import Path

import pytest
from django.db import connection, transaction

from generation.images import references, storage
from generation.models import Image
from tests.distillation.example_factories import make_example
from tests.factories import make_image

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_file_is_in_use_while_any_row_refers_to_it():
    image = make_image()
    free = storage.save(b"nobody's", "png").name
    names = [image.file, image.master, free]

    assert references.in_use(names) == {image.file, image.master}
    assert references.in_use([]) == set()

    Image.objects.all().delete()
    assert references.in_use(names) == set()


def test_the_images_of_given_jobs_can_be_left_out():
    image, other = make_image(), make_image(color=(1, 2, 3))
    names = [image.file, other.file]

    used = references.in_use(names, without=type(image.job).objects.filter(pk=image.job_id))

    assert used == {other.file}


def test_an_example_of_distillation_keeps_its_file():
    example = make_example(content=b"picture")

    assert references.remove([example.file]) == []

    assert storage.exists(example.file)


def test_an_unreferenced_file_is_removed_with_its_thumbnail_and_their_sizes_are_returned():
    kept, master = make_image(), storage.save(b"a master", "png").name
    thumbnail = storage.thumbnail_name(master)
    storage.keep(thumbnail, b"small")

    removed = references.remove([master, kept.file, kept.master, "images/00/gone.png"])

    assert {(one.name, one.size_bytes) for one in removed} == {(master, 8), (thumbnail, 5)}
    assert storage.exists(kept.file) and storage.exists(kept.master)
    assert not storage.exists(master) and not storage.exists(thumbnail)


def in_a_thread(action):
    """Return the result of `action` on a connection of its own."""
    answers = []

    def run():
        try:
            answers.append(action())
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive(), "it waits"
    return answers[0]


def test_a_file_whose_row_is_being_inserted_is_kept_without_waiting():
    name = storage.save(b"picture", "png").name

    with transaction.atomic():
        references.hold([name])
        assert in_a_thread(lambda: references.remove([name])) == []
        assert storage.exists(name)

    assert [one.name for one in references.remove([name])] == [name]


def test_rows_for_one_file_may_be_inserted_concurrently():
    name = storage.save(b"picture", "png").name

    def hold():
        with transaction.atomic():
            references.hold([name])
            return True

    with transaction.atomic():
        references.hold([name])
        assert in_a_thread(hold)


def test_a_reference_made_during_a_removal_waits_and_finds_the_file_gone(monkeypatch):
    name = storage.save(b"picture", "png").name
    is_removing, may_go_on = threading.Event(), threading.Event()
    remove = storage.remove

    def slow(each: str) -> None:
        is_removing.set()
        assert may_go_on.wait(60)
        remove(each)

    monkeypatch.setattr(storage, "remove", slow)
    found = []

    def refer():
        with transaction.atomic():
            references.hold([name])
            found.append(storage.exists(name))
        connection.close()

    def purge():
        references.remove([name])
        connection.close()

    threads = [threading.Thread(target=purge), threading.Thread(target=refer)]
    threads[0].start()
    assert is_removing.wait(60)
    threads[1].start()
    threads[1].join(timeout=0.3)
    assert threads[1].is_alive() and not found
    may_go_on.set()
    for thread in threads:
        thread.join(timeout=60)

    assert found == [False]


def test_a_file_that_cannot_be_removed_is_kept_and_the_others_are_removed(settings):
    stuck, other = storage.save(b"stuck", "png").name, storage.save(b"other", "webp").name
    place = Path(settings.MEDIA_ROOT) / stuck
    place.unlink()
    place.mkdir()  # no file can be removed from here
    (place / "inside").touch()

    assert [one.name for one in references.remove([stuck, other])] == [other]

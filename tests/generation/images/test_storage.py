"""Image files: named by content hash, written atomically, in a folder or an object store."""

import errno
import os
import resource
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from generation.errors import FileMissing, StorageFailed
from generation.images import storage
from tests.silent_store import SilentStore


@pytest.fixture(params=["folder", "object store"])
def place(request):
    """Run the test with a folder and with an object store."""
    if request.param == "object store":
        request.getfixturevalue("bucket")
    return request.param


def test_the_same_content_is_stored_once(settings):
    first = storage.save(b"picture", "webp")
    second = storage.save(b"picture", "webp")

    assert first == second
    assert storage.read(first.name) == b"picture"
    assert len([path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()]) == 1


def test_a_stored_file_is_read_measured_copied_and_removed(place: str, tmp_path: Path):
    stored = storage.save(b"picture", "png")

    assert storage.read(stored.name) == b"picture"
    assert storage.exists(stored.name) and storage.size(stored.name) == 7
    assert abs(storage.modified_at(stored.name) - datetime.now(UTC)) < timedelta(minutes=1)
    storage.copy(stored.name, tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == b"picture"
    storage.remove(stored.name)
    storage.remove(stored.name)
    assert not storage.exists(stored.name)
    assert storage.modified_at(stored.name) is None
    with pytest.raises(StorageFailed, match="is missing"):
        storage.read(stored.name)


def test_only_a_file_that_is_absent_from_an_available_storage_is_missing(settings):
    stored = storage.save(b"picture", "png")
    storage.remove(stored.name)
    with pytest.raises(FileMissing):
        storage.read(stored.name)

    (settings.MEDIA_ROOT / "images").rename(settings.MEDIA_ROOT / "elsewhere")

    with pytest.raises(StorageFailed, match="Mount the storage") as caught:
        storage.read(stored.name)
    assert not isinstance(caught.value, FileMissing)


def test_all_files_are_listed_folder_by_folder(place: str):
    assert list(storage.folders()) == []
    names = [storage.save(str(number).encode(), "webp").name for number in range(20)]
    thumbnail = storage.thumbnail_name(names[0])
    storage.keep(thumbnail, b"small")

    listed = list(storage.folders())

    assert sorted(name for part in listed for name in part) == sorted([*names, thumbnail])
    assert all(len({Path(name).parent for name in part}) == 1 for part in listed)


def test_a_truncated_file_of_an_earlier_crash_is_replaced(settings):
    stored = storage.save(b"whole picture", "png")
    (settings.MEDIA_ROOT / stored.name).write_bytes(b"whol")

    storage.save(b"whole picture", "png")

    assert storage.read(stored.name) == b"whole picture"


def test_an_unwritable_storage_is_a_retryable_error(settings):
    settings.MEDIA_ROOT.parent.mkdir(parents=True)
    settings.MEDIA_ROOT.write_text("a file where the folder should be")

    with pytest.raises(StorageFailed, match="DATA_DIR") as caught:
        storage.save(b"picture", "png")
    assert caught.value.retryable


def test_a_local_copy_takes_no_space(tmp_path: Path, settings):
    stored = storage.save(b"picture", "png")

    storage.copy(stored.name, tmp_path / "copy.png")

    assert os.path.samefile(settings.MEDIA_ROOT / stored.name, tmp_path / "copy.png")


def test_a_file_of_the_right_size_with_another_content_is_replaced(settings):
    """XFS may leave such a file after a power cut: the right size, filled with zeros."""
    stored = storage.save(b"whole picture", "png")
    (settings.MEDIA_ROOT / stored.name).write_bytes(bytes(13))

    storage.save(b"whole picture", "png")

    assert storage.read(stored.name) == b"whole picture"


def test_a_file_that_does_not_match_its_name_is_removed_and_never_returned(place: str, settings):
    name = f"images/ab/{'ab' * 32}.png"
    if place == "folder":
        (settings.MEDIA_ROOT / name).parent.mkdir(parents=True)
        (settings.MEDIA_ROOT / name).write_bytes(b"")
    else:
        storage.keep(name, b"rot")

    with pytest.raises(StorageFailed, match="damaged"):
        storage.read(name)

    assert not storage.exists(name)


def test_a_write_that_fails_leaves_nothing_behind(settings, monkeypatch):
    """A full disk: the file grows until no space is left."""
    held = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, held[1]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for number in range(3):
            with pytest.raises(StorageFailed, match="too large"):
                storage.save(bytes([number]) * 200_000, "png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
        signal.signal(signal.SIGXFSZ, before)

    assert not [path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()]
    assert storage.read(storage.save(b"x" * 200_000, "png").name)  # a later write succeeds


def test_a_stored_file_and_its_folder_are_synced_before_a_row_may_refer_to_them(monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def slow(handle: int) -> None:
        time.sleep(0.05)
        fsync(handle)
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr(os, "fsync", slow)
    names = [storage.save(b"one", "png").name, storage.save(b"two", "png").name]
    again = storage.save(b"one", "png").name  # another process may have stored it a moment ago

    storage.sync([*names, again])

    for name in names:
        assert any(path.endswith(name) for path in synced)
        assert any(path.endswith(str(Path(name).parent)) for path in synced)


def refuse(handle: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_file_that_cannot_be_synced_is_removed_and_the_error_is_reported(monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse)
    name = storage.save(b"one", "png").name
    while storage.exists(name):  # also an error before anything waits for it is reported
        time.sleep(0.01)

    with pytest.raises(StorageFailed, match="Input/output error"):
        storage.sync([name])
    storage.sync([name])


def test_a_file_of_another_process_that_cannot_be_synced_is_reported_and_kept(monkeypatch):
    name = storage.save(b"one", "png").name
    storage.sync([name])
    monkeypatch.setattr(os, "fsync", refuse)
    storage.save(b"one", "png")

    with pytest.raises(StorageFailed, match="Input/output error"):
        storage.sync([name])
    assert storage.exists(name)


def test_a_web_process_waits_briefly_for_a_disk_that_does_not_sync(monkeypatch):
    monkeypatch.setattr(storage, "_breaker", None)
    monkeypatch.setattr(storage, "LOCAL_SECONDS", 0.2)
    goes_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: goes_on.wait(60))
    storage.fail_fast()
    name = storage.save(b"one", "png").name
    began = time.monotonic()

    with pytest.raises(StorageFailed, match="does not answer"):
        storage.sync([name])

    assert time.monotonic() - began < 30
    goes_on.set()


# --- an object store ------------------------------------------------------------------------------
def test_in_an_object_store_a_file_has_the_prefix_and_its_type_and_no_local_copy(bucket, settings):
    stored = storage.save(b"picture", "webp")

    (found,) = bucket.objects.all()
    assert found.key == f"pictures/{stored.name}"
    assert (found.Object().content_type, found.Object().cache_control) == (
        "image/webp",
        "public, max-age=31536000, immutable",
    )
    assert not settings.MEDIA_ROOT.exists()


def test_a_file_in_the_object_store_is_not_uploaded_again(bucket):
    storage.save(b"picture", "webp")
    (before,) = (found.last_modified for found in bucket.objects.all())
    time.sleep(1.1)

    storage.save(b"picture", "webp")

    assert [found.last_modified for found in bucket.objects.all()] == [before]


def test_a_link_of_the_object_store_returns_the_file_until_it_expires(bucket, settings):
    name = storage.save(b"picture", "webp").name

    shown = httpx.get(storage.link(name, seconds=60))
    saved = httpx.get(storage.link(name, seconds=60, save_as="picture.webp"))

    assert (shown.content, shown.headers["Content-Type"]) == (b"picture", "image/webp")
    assert "X-Amz-Expires=60" in storage.link(name, seconds=60)
    assert saved.headers["Content-Disposition"] == 'attachment; filename="picture.webp"'
    settings.S3_DELIVERY = "serve"
    assert storage.link(name, seconds=60) is None


def test_local_files_have_no_url_of_their_own():
    assert storage.link(storage.save(b"picture", "webp").name, seconds=60) is None


def test_a_refusing_or_unreachable_object_store_is_a_retryable_error(bucket, settings):
    from project.settings.storage import object_store

    bucket.delete()
    with pytest.raises(StorageFailed, match="NoSuchBucket") as caught:
        storage.save(b"picture", "png")
    assert caught.value.retryable
    away = object_store("somewhere", endpoint_url="http://127.0.0.1:1", region="us-east-1")
    settings.STORAGES = {**settings.STORAGES, "default": away}
    for action in (storage.exists, storage.read, storage.remove):
        with pytest.raises(StorageFailed, match=r"127\.0\.0\.1:1"):
            action("images/ab/abc.png")


def test_a_worker_asks_an_object_store_again_after_a_failure(bucket, settings):
    """Only a web process stops asking for a while: a worker has computed what it stores."""
    from project.settings.storage import object_store

    with SilentStore(closes=True) as store:
        away = object_store("somewhere", endpoint_url=store.url, region="us-east-1")
        settings.STORAGES = {**settings.STORAGES, "default": away}
        for tries in (1, 2):
            with pytest.raises(StorageFailed):
                storage.save(b"picture", "png")
            assert len(store.connections) == 3 * tries

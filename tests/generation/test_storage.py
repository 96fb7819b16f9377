"""Image files: named by content, whole or absent."""

import pytest

from generation import storage
from generation.errors import StorageFailed


def test_the_same_content_is_stored_once(settings):
    first = storage.save(b"picture", "webp")
    second = storage.save(b"picture", "webp")

    assert first == second
    assert storage.read(first.name) == b"picture"
    assert len([path for path in settings.MEDIA_ROOT.rglob("*") if path.is_file()]) == 1


def test_a_torn_file_of_an_earlier_crash_is_replaced(settings):
    stored = storage.save(b"whole picture", "png")
    (settings.MEDIA_ROOT / stored.name).write_bytes(b"whol")

    storage.save(b"whole picture", "png")

    assert storage.read(stored.name) == b"whole picture"


def test_a_place_that_cannot_be_written_is_an_error_that_may_be_retried(settings):
    settings.MEDIA_ROOT.parent.mkdir(parents=True)
    settings.MEDIA_ROOT.write_text("a file where the folder should be")

    with pytest.raises(StorageFailed, match="DATA_DIR") as caught:
        storage.save(b"picture", "png")
    assert caught.value.retryable

"""Signed links while the secret key changes."""

from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from generation.errors import LinkInvalid
from generation.images import links

OLD, NEW = "o" * 50, "n" * 50


def check(image_id, path: str) -> int:
    query = parse_qs(urlsplit(path).query)
    return links.check(image_id, query["expires"][0], query["signature"][0])


def test_links_of_an_earlier_key_stay_valid_while_it_is_a_fallback(settings):
    image_id = uuid4()
    settings.SECRET_KEY = OLD
    path = links.image_path(image_id)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    assert check(image_id, path) > 0
    assert check(image_id, links.image_path(image_id)) > 0

    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(LinkInvalid):
        check(image_id, path)


def test_new_links_are_signed_with_the_new_key_alone(settings):
    image_id = uuid4()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    path = links.image_path(image_id)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = OLD, []
    with pytest.raises(LinkInvalid):
        check(image_id, path)

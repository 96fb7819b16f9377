"""Image sources: access rules, listing, reading. Real folders and a real web server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillation.examples import sources
from distillation.examples.sources import FileTooLarge, PlaceUnusable, Rules, open_place
from tests.distillation.served import serve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "vases" / "more").mkdir(parents=True)
    (folder / "vases" / "b.png").write_bytes(b"bb")
    (folder / "vases" / "more" / "a.jpg").write_bytes(b"a")
    return folder


def locations(url: str, rules: Rules) -> list[str]:
    return [file.location for file in open_place(url, rules).files()]


# --- folders --------------------------------------------------------------------------------------
def test_a_folder_is_listed_with_its_subfolders(root):
    rules = Rules([root])
    for url in ("vases", str(root / "vases"), f"file://{root}/vases", f"{root}/./vases/"):
        assert locations(url, rules) == ["b.png", "more/a.jpg"]


def test_a_stamp_changes_only_with_the_file(root):
    rules = Rules([root])
    before = open_place("vases", rules).files()
    assert open_place("vases", rules).files() == before and all(file.stamp for file in before)
    os.utime(root / "vases" / "b.png", (1, 1))
    after = open_place("vases", rules).files()
    assert after[0].stamp != before[0].stamp and after[1] == before[1]


@pytest.mark.parametrize("url", ["/etc", "..", "vases/../..", "file:///etc", "/", "link"])
def test_folders_outside_of_the_roots_are_refused(root, url):
    (root / "link").symlink_to("/etc")
    with pytest.raises(PlaceUnusable, match="IMAGE_SOURCE_ROOTS"):
        open_place(url, Rules([root]))


def test_a_missing_folder_is_reported(root):
    with pytest.raises(PlaceUnusable, match="is not a folder"):
        open_place("nowhere", Rules([root]))


def test_links_hidden_files_and_pipes_are_left_out(root, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    vases = root / "vases"
    (vases / "link.png").symlink_to(tmp_path / "secret.png")
    (vases / "folder").symlink_to(tmp_path)
    (vases / "round").symlink_to(vases)
    (vases / ".hidden.png").write_bytes(b"x")
    (vases / ".git").mkdir()
    (vases / ".git" / "c.png").write_bytes(b"x")
    os.mkfifo(vases / "pipe.png")
    assert locations("vases", Rules([root])) == ["b.png", "more/a.jpg"]


def test_a_folder_that_became_a_link_after_it_was_listed_is_not_followed(root, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"secret")
    place = open_place("vases", Rules([root]))
    file = place.files()[1]
    (root / "vases" / "more").rename(root / "moved")
    (root / "vases" / "more").symlink_to(tmp_path)
    with pytest.raises(OSError, match="leads out"):
        place.read(file, most=100)


def test_no_more_bytes_are_read_than_allowed_whatever_was_listed(root):
    place = open_place("vases", Rules([root]))
    file = place.files()[0]
    assert place.read(file, most=2) == b"bb"
    with pytest.raises(FileTooLarge):
        place.read(file, most=1)
    (root / "vases" / "b.png").write_bytes(b"b" * 5000)  # it grew since
    with pytest.raises(FileTooLarge):
        place.read(file, most=100)
    (root / "vases" / "b.png").unlink()
    with pytest.raises(OSError):
        place.read(file, most=100)


def test_a_listing_that_is_too_long_is_refused(root, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    with pytest.raises(PlaceUnusable, match="more than 1 files"):
        locations("vases", Rules([root]))


# --- buckets --------------------------------------------------------------------------------------
RULES = Rules([], ["s3://ours", "gs://shared/pictures/"])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://ours", "ours"),
        ("S3://ours/a/b/", "ours/a/b"),
        ("gs://shared/pictures", "shared/pictures"),
        ("gs://shared//pictures/x", "shared/pictures/x"),
    ],
)
def test_allowed_buckets_and_folders_in_them_are_read(url, place):
    assert sources.bucket_of(url, RULES) == place


@pytest.mark.parametrize(
    "url",
    [
        "s3://others",
        "s3://ours2/a",
        "s3://OURS",
        "gs://ours",
        "gs://shared",
        "gs://shared/pictures2",
        "s3://ours/../others/a",
        "s3://../others",
        "s3://./others",
        "gs://shared/pictures/../secrets",
        "s3://ours?versionId=1",
        "s3://ours#a",
        "s3://ours\\@others",
        "abfs://ours",
    ],
)
def test_other_buckets_are_not_read_with_this_machines_credentials(url):
    for rules in (RULES, Rules([], [])):
        with pytest.raises(PlaceUnusable):
            sources.check(url, rules)


# --- URLs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "ftp:// is not supported"),
        ("memory://x", "is not supported"),
        ("simplecache::s3://bucket", "simplecache"),
        ("s3://", "is incomplete"),
        ("https://", "is incomplete"),
        ("https://user:secret@host/x", "credentials"),
        ("https://host/x?token=1", "without"),
        ("https://[::1", "is not valid"),
        ("", "neither"),
        ("zip://*.png::/etc/x.zip", "is not supported"),
    ],
)
def test_unsupported_urls_are_refused_with_the_reason(root, url, message):
    with pytest.raises(PlaceUnusable, match=message):
        open_place(url, Rules([root]))


def test_a_backend_that_is_not_installed_is_named():
    missing = [scheme for scheme in ("gs", "abfs") if not sources.is_installed(scheme)]
    if not missing:
        pytest.skip("every backend is installed here")
    package = sources.PACKAGES[missing[0]]
    with pytest.raises(PlaceUnusable, match=f"pip install {package}"):
        open_place(f"{missing[0]}://bucket/folder", Rules([], [f"{missing[0]}://bucket"]))


# --- web servers ----------------------------------------------------------------------------------
@pytest.fixture
def web(root) -> Iterator[str]:
    with serve(root, broken=set()) as url:
        yield url


PRIVATE_RULES = Rules([], private_hosts=True)


def test_the_listing_of_a_web_server_is_read_with_size_and_stamp_of_each_file(web):
    place = open_place(f"{web}/vases", PRIVATE_RULES)
    files = [place.described(file) for file in place.files()]
    assert [(file.location, file.size_bytes) for file in files] == [("b.png", 2), ("more/a.jpg", 1)]
    assert all(file.stamp for file in files)
    assert place.read(files[0], most=2) == b"bb"
    with pytest.raises(FileTooLarge):
        place.read(place.files()[0], most=1)


def test_private_addresses_are_refused_by_name_and_by_number(web):
    port = web.rpartition(":")[2]
    for url in (web, f"http://localhost:{port}", f"http://[::ffff:127.0.0.1]:{port}"):
        with pytest.raises(PlaceUnusable, match="private address"):
            open_place(f"{url}/vases", Rules([])).files()


def test_an_endless_page_is_refused(web):
    with pytest.raises(PlaceUnusable, match="bytes"):
        open_place(f"{web}/endless", PRIVATE_RULES).files()


def test_a_listing_with_long_runs_of_spaces_is_read_at_once(root):
    (root / "vases" / "index.html").write_text(
        "<a" + 100_000 * " " + "><a class='x' href='a b.png'><A HREF='c.png'>"
    )
    (root / "vases" / "a b.png").write_bytes(b"a")
    with serve(root, broken=set()) as web:
        place = open_place(f"{web}/vases", PRIVATE_RULES)
        assert [file.location for file in place.files()] == ["a%20b.png", "c.png"]
        assert place.described(place.files()[0]).size_bytes == 1


def test_an_unreachable_server_is_reported():
    with pytest.raises(PlaceUnusable, match="cannot be listed"):
        open_place("http://127.0.0.1:9/x", PRIVATE_RULES).files()

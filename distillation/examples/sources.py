"""Locations of images, opened by fsspec from a URL: rules of access, listing, reading.

A source must not give access to files of this machine or to its network: folders must be below the roots, links are
not followed, and private IP addresses are refused at connection time, also after redirects.
"""

import errno
import importlib.util
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from generation.infra import addresses

MAX_FILES = 100_000  # of a source; protects against endless listings
MAX_FOLDERS = 10_000
MAX_LISTING_BYTES = 8 * 2**20  # of one page of a web server
CONNECT_SECONDS, READ_SECONDS = 10, 60
# Packages needed besides fsspec.
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
WEB = ("http", "https")
# Its time is linear in the length of the page. That of fsspec's expression is cubic in the length of a run of spaces.
LINK = re.compile(
    r"""<a\s(?:[^<>]{0,1000}?\s)?href=["']([^"'<>\t\r\n]{1,2000})["']""", re.IGNORECASE
)
# Names of metadata that change with the content; the first present one is used, otherwise size and time.
CHECKSUMS = ("ETag", "etag", "content_md5", "Content-MD5", "md5Hash", "Digest")
TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated")


class PlaceUnusable(Exception):
    """The location is not allowed, missing or unreachable. The message says which, and what to do."""


class FileTooLarge(Exception):
    """The file is larger than the limit."""


@dataclass(frozen=True)
class Rules:
    """roots: folders of this machine that may be read; relative paths start at the first one. buckets: URLs of
    buckets, or of folders in them, that may be read with this machine's credentials."""

    roots: Sequence[Path]
    buckets: Sequence[str] = ()
    private_hosts: bool = False


@dataclass(frozen=True)
class File:
    """location: within the source. size_bytes: None = unknown. stamp: "" = changes cannot be detected."""

    location: str
    path: str
    size_bytes: int | None
    stamp: str


def scheme_of(url: str) -> str:
    """Return the scheme; "" for a local folder. Raises PlaceUnusable if it is not allowed. Does not connect."""
    head, separator, rest = url.partition("://")
    if not separator:
        if "::" in url or not url.strip():
            raise PlaceUnusable(f"{url!r} is neither a folder nor a URL.")
        return ""
    scheme = head.lower()
    if scheme == "file":
        return ""
    if scheme not in PACKAGES:
        raise PlaceUnusable(
            f"{scheme}:// is not supported. Give a folder, or {', '.join(PACKAGES)}."
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PlaceUnusable(f"The URL {url} is not valid: {error}.") from error
    if not rest.strip("/") or not parts.netloc:
        raise PlaceUnusable(f"The URL {url} is incomplete. Give {scheme}://NAME/FOLDER.")
    if parts.username is not None or parts.password is not None:
        raise PlaceUnusable("The URL must not contain credentials: other people can read it.")
    if scheme in WEB and (parts.query or parts.fragment):
        raise PlaceUnusable("Give the URL of a listing, without ? and #.")
    return scheme


def folder_of(url: str, rules: Rules) -> Path:
    """Return the local folder of the URL, links resolved. Raises PlaceUnusable if it is outside the roots."""
    given = url.partition("://")[2] if "://" in url else url
    path = Path(given)
    roots = [Path(root).resolve() for root in rules.roots]
    if not path.is_absolute() and roots:
        path = roots[0] / path
    path = path.resolve()
    if not any(path.is_relative_to(root) for root in roots):
        allowed = ", ".join(map(str, roots)) or "nothing"
        raise PlaceUnusable(
            f"{given} is outside of the allowed folders (IMAGE_SOURCE_ROOTS): {allowed}."
        )
    return path


def bucket_of(url: str, rules: Rules) -> str:
    """Return bucket and folder of an allowed URL in fsspec's format. Raises PlaceUnusable for others."""
    scheme, _, rest = url.partition("://")
    wanted = _segments(rest)
    if {"..", "."} & set(wanted) or any(character in url for character in "?#\\"):
        raise PlaceUnusable("The URL of a bucket has no ., .., ?, # or backslash.")
    for allowed in rules.buckets:
        head, _, place = allowed.partition("://")
        given = _segments(place)
        if head.lower() == scheme.lower() and given and wanted[: len(given)] == given:
            return "/".join(wanted)
    allowed = ", ".join(rules.buckets) or "nothing"
    raise PlaceUnusable(
        f"{url} is outside of the allowed buckets (IMAGE_SOURCE_BUCKETS): {allowed}."
    )


def _segments(place: str) -> list[str]:
    return [segment for segment in place.split("/") if segment]


def check(url: str, rules: Rules) -> str:
    """Return the scheme of a URL that the rules allow; "" for a folder. Does not connect. Raises PlaceUnusable."""
    scheme = scheme_of(url)
    if scheme == "":
        folder_of(url, rules)
    elif scheme not in WEB:
        bucket_of(url, rules)
    return scheme


class Place:
    """An open location. Created by `open_place`."""

    def __init__(self, filesystem: Any, base: str, *, scheme: str) -> None:
        self._filesystem = filesystem
        self._base = base.rstrip("/")
        self._scheme = scheme

    def files(self, *, is_over: Callable[[], bool] = lambda: False) -> list[File]:
        """Return all files by location, without hidden ones and links. Raises PlaceUnusable.

        is_over: checked before each folder; True ends the listing early.
        """
        found: list[File] = []
        for entry in self._entries(is_over):
            if len(found) == MAX_FILES:
                raise PlaceUnusable(
                    f"{self._base} has more than {MAX_FILES} files. Split it into several sources."
                )
            name = entry["name"]
            location = readable(name[len(self._base) :].lstrip("/"))
            found.append(File(location, name, entry.get("size"), _stamp(entry)))
        return sorted(found, key=lambda file: file.location)

    def _entries(self, is_over: Callable[[], bool]) -> Iterator[Mapping[str, Any]]:
        waiting, known = [self._base], {self._base}
        while waiting and not is_over():
            folder = waiting.pop()
            for entry in self._listed(folder):
                name = entry["name"].rstrip("/")
                if not self._is_ours(name, entry):
                    continue
                if entry["type"] == "file":
                    yield entry
                elif entry["type"] == "directory" and name not in known:
                    if len(known) == MAX_FOLDERS:
                        raise PlaceUnusable(f"{self._base} has more than {MAX_FOLDERS} folders.")
                    known.add(name)
                    waiting.append(name)

    def _listed(self, folder: str) -> list[Mapping[str, Any]]:
        # The URL of a folder on a web server ends with a slash; otherwise the server redirects.
        asked = f"{folder}/" if self._scheme in WEB else folder
        try:
            return self._filesystem.ls(asked, detail=True)
        except PlaceUnusable:
            raise
        except Exception as error:  # backends raise their own exceptions
            raise PlaceUnusable(f"{folder} cannot be listed: {_message(error)}") from error

    def _is_ours(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Return whether an entry is below the base and neither hidden, a link, nor another view of a web listing."""
        below = name[len(self._base) :]
        if not name.startswith(self._base) or not below.startswith("/") or entry.get("islink"):
            return False
        if any(part.startswith(".") for part in below.split("/") if part):
            return False
        return self._scheme not in WEB or not ("?" in below or "#" in below)

    def described(self, file: File) -> File:
        """Return the file with size and stamp if the listing had none (web servers). Raises OSError."""
        if self._scheme not in WEB:
            return file
        try:
            info = self._filesystem.info(file.path)
        except Exception as error:
            raise OSError(_message(error)) from error
        return File(file.location, file.path, info.get("size"), _stamp(info))

    def read(self, file: File, *, most: int) -> bytes:
        """Return the content. Raises FileTooLarge above `most` bytes, whatever the declared size, and OSError."""
        if file.size_bytes is not None and file.size_bytes > most:
            raise FileTooLarge
        if self._scheme == "":
            self._check_still_inside(file)
        parts, count = [], 0
        try:
            with self._filesystem.open(file.path, "rb") as stream:
                while part := stream.read(min(2**20, most + 1 - count)):
                    parts.append(part)
                    count += len(part)
                    if count > most:
                        raise FileTooLarge
        except (FileTooLarge, OSError):
            raise
        except Exception as error:
            raise OSError(_message(error)) from error
        return b"".join(parts)

    def _check_still_inside(self, file: File) -> None:
        """Check that no folder was replaced by a link since the listing."""
        if not Path(file.path).resolve().is_relative_to(self._base):
            raise OSError("The path leads out of the source.")


def is_installed(scheme: str) -> bool:
    return importlib.util.find_spec(PACKAGES[scheme]) is not None


def open_place(url: str, rules: Rules) -> Place:
    """Open a location. Raises PlaceUnusable."""
    import fsspec  # imported here because the web process only checks URLs

    scheme = check(url, rules)
    if scheme == "":
        folder = folder_of(url, rules)
        if not folder.is_dir():
            raise PlaceUnusable(f"{folder} is not a folder.")
        return Place(fsspec.filesystem("file", skip_instance_cache=True), str(folder), scheme="")
    package = PACKAGES[scheme]
    if not is_installed(scheme):
        raise PlaceUnusable(
            f"{scheme}:// needs the Python package {package}, which is not installed: pip install {package}."
        )
    if scheme in WEB:
        return Place(_web(rules), url, scheme=scheme)
    try:
        filesystem = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
    except Exception as error:
        raise PlaceUnusable(f"{scheme}:// cannot be opened: {_message(error)}") from error
    return Place(filesystem, bucket_of(url, rules), scheme=scheme)


def _web(rules: Rules) -> Any:
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    class Response(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            """Limit the size: only listings are read whole by fsspec."""
            body = bytearray()
            async for part in self.content.iter_chunked(2**16):
                body += part
                if len(body) > MAX_LISTING_BYTES:
                    raise PlaceUnusable(
                        f"The listing {self.url} has more than {MAX_LISTING_BYTES} bytes."
                    )
            self._body = bytes(body)
            return self._body

        async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
            """Return the links of the page and nothing else: fsspec searches the text of a listing for them."""
            page = await super().text(encoding, errors)
            links = (link.replace(" ", "%20") for link in LINK.findall(page))
            return "".join(f'<a href="{link}">' for link in links)

    def connect(address: Any) -> socket.socket:
        family, kind, protocol, _, place = address
        if not rules.private_hosts and not addresses.is_public(place[0]):
            raise OSError(
                errno.EACCES,
                f"{place[0]} is a private address (see IMAGE_SOURCE_PRIVATE_HOSTS)",
            )
        return socket.socket(family, kind, protocol)

    async def session(**options: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=connect),
            response_class=Response,
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, total=READ_SECONDS),
            **options,
        )

    return HTTPFileSystem(
        get_client=session, simple_links=False, block_size=0, skip_instance_cache=True
    )


def readable(text: str) -> str:
    """Return the text with undecodable bytes and NUL escaped, so that it can be stored."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _stamp(entry: Mapping[str, Any]) -> str:
    for name in CHECKSUMS:
        if entry.get(name):
            return str(entry[name])[:200]
    for name in TIMES:
        if entry.get(name) and entry.get("size") is not None:
            return f"{entry['size']} {entry[name]}"[:200]
    return ""


def _message(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]

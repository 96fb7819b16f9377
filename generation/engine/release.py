"""Release format: reading and writing of `release.json`, and verification of a folder. Imports no torch.

A release is a diffusers folder (one sub-folder per component, safetensors only) with `release.json`, written last.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from generation.engine import classes
from generation.engine.errors import ReleaseInvalid

FORMAT_VERSION = 1
MANIFEST = "release.json"
NEGATIVE_EMBEDS = "negative_prompt_embeds.safetensors"  # of the empty text, for guidance
KINDS = ("teacher", "student")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
REQUIRED = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
REQUIRED_OF_ENCODER = (
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
ENCODER_FOLDERS = ("text_encoder", "tokenizer")
PROMPT_EMBEDS = "prompt_embeds.safetensors"  # of the covered variants, in a student's release

Progress = Callable[[int, int], None]  # bytes done, bytes in total

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release. path: relative to the release, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Content of `release.json`. `docs/release-format.md` explains each field."""

    format_version: int
    name: str
    kind: str  # of KINDS
    parent: str | None  # name of the teacher that a student was distilled from
    recipe: dict[str, Any] | None
    code_revision: str
    prediction_type: str  # of PREDICTION_TYPES
    noise_scheduler: str  # a name of `sampling`
    timesteps: list[int]  # exactly these, descending
    num_inference_steps: int  # their number
    guidance_scale: float  # 1 = none
    encoder_fingerprint: str
    has_encoder: bool  # the folder contains the tokenizer and the text encoder
    max_tokens: int  # with start and end marker
    embedding_shape: tuple[int, int]  # (tokens, width)
    weight_dtype: str
    quantization: str | None
    image_sizes: list[tuple[int, int]]  # (width, height); the first is the default
    covered_variants: list[str]  # slugs; empty = the whole catalogue
    files: list[ReleaseFile]  # everything except release.json
    evaluation: dict[str, Any] | None


# --- reading --------------------------------------------------------------------------------------
def read(folder: Path) -> Manifest:
    """Read the manifest of a release folder. Raises ReleaseInvalid."""
    path = Path(folder) / MANIFEST
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ReleaseInvalid(
            f"{path} is missing: the folder is not a release, or writing it was interrupted. "
            "Register a diffusers folder with `manage.py release register DIR`."
        ) from None
    except (OSError, ValueError) as error:
        raise ReleaseInvalid(
            f"{path} cannot be read: {error}. Copy the release again from its source."
        ) from error
    return manifest_from_dict(value)


def manifest_from_dict(value: Any) -> Manifest:
    """Parse a manifest. Raises ReleaseInvalid for an unknown version, unknown or missing fields and invalid values."""
    if not isinstance(value, dict):
        raise ReleaseInvalid(f"{MANIFEST} must be a JSON object.")
    version = value.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ReleaseInvalid(
            f"{MANIFEST} has format version {version!r}; this version of Retort reads {FORMAT_VERSION}. "
            "Use the version that wrote it, or create the release again."
        )
    known = {field.name for field in fields(Manifest)}
    if unknown := sorted(value.keys() - known):
        raise ReleaseInvalid(
            f"{MANIFEST} has unknown fields: {', '.join(unknown)}. Remove them, or update Retort."
        )
    if missing := sorted(known - value.keys()):
        raise ReleaseInvalid(
            f"{MANIFEST} lacks the fields {', '.join(missing)}. Create the release again."
        )
    for name, (is_right, expected) in _RULES.items():
        if not is_right(value[name]):
            raise ReleaseInvalid(
                f"{MANIFEST}: {name} must be {expected}, not {value[name]!r:.200}."
            )
    if len(value["timesteps"]) != value["num_inference_steps"]:
        raise ReleaseInvalid(
            f"{MANIFEST}: num_inference_steps is {value['num_inference_steps']}, but timesteps has "
            f"{len(value['timesteps'])} values. They must be equal."
        )
    files = [_file(entry) for entry in value["files"]]
    if len({file.path for file in files}) != len(files):
        raise ReleaseInvalid(f"{MANIFEST} lists a file more than once.")
    tokens, width = value["embedding_shape"]
    return Manifest(
        **{
            **value,
            "guidance_scale": float(value["guidance_scale"]),
            "embedding_shape": (tokens, width),
            "image_sizes": [(wide, high) for wide, high in value["image_sizes"]],
            "files": files,
        }
    )


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """Return plain JSON values."""
    return json.loads(json.dumps(asdict(manifest)))


def _file(entry: Any) -> ReleaseFile:
    if not isinstance(entry, dict) or entry.keys() != {"path", "size_bytes", "sha256"}:
        raise ReleaseInvalid(f"{MANIFEST}: each file needs exactly path, size_bytes and sha256.")
    path, size_bytes, sha256 = entry["path"], entry["size_bytes"], entry["sha256"]
    if not _is_text(path) or not _is_inside(path):
        raise ReleaseInvalid(
            f"{MANIFEST}: the file path {path!r} leads out of the release. Do not use this release."
        )
    _refuse_pickle(path)
    if not _is_whole(size_bytes) or not _is_text(sha256) or not _SHA256.fullmatch(sha256):
        raise ReleaseInvalid(
            f"{MANIFEST}: {path} needs a size in bytes and a SHA-256 in hexadecimal."
        )
    return ReleaseFile(path, size_bytes, sha256)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return (
        str(PurePosixPath(path)) == path
        and bool(parts)
        and not path.startswith("/")
        and not {"..", "."} & set(parts)
        and not set(path) & set("\\:\0")
        and path != MANIFEST
    )


def _refuse_pickle(path: str) -> None:
    if path.lower().endswith(PICKLES):
        raise ReleaseInvalid(
            f"{path} is a pickle, which can run code when it is loaded. Releases contain safetensors only: "
            "convert it with `pipeline.save_pretrained(DIR, safe_serialization=True)` of diffusers."
        )


def is_name(value: str) -> bool:
    """Return whether a release can have this name."""
    return bool(_NAME.fullmatch(value)) and value not in KINDS


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_whole(value: Any, minimum: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(_is_whole(part, 1) for part in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1000


def _is_descending(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(_is_whole(step) for step in value)
        and all(later < earlier for earlier, later in pairwise(value))
    )


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda value: isinstance(value, str) and is_name(value),
        "1 to 100 letters, digits, - or _, and not the name of a kind",
    ),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "parent": (lambda value: value is None or _is_text(value), "null or the name of a release"),
    "recipe": (lambda value: value is None or isinstance(value, dict), "null or an object"),
    "code_revision": (lambda value: isinstance(value, str), "text"),
    "prediction_type": (
        lambda value: value in PREDICTION_TYPES,
        f"one of {', '.join(PREDICTION_TYPES)}",
    ),
    "noise_scheduler": (_is_text, "the name of a noise scheduler"),
    "timesteps": (_is_descending, "descending whole numbers"),
    "num_inference_steps": (lambda value: _is_whole(value, 1), "a whole number above zero"),
    "guidance_scale": (lambda value: _is_number(value) and value >= 1, "a number from 1 (none)"),
    "encoder_fingerprint": (
        lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value)),
        "a SHA-256 in hexadecimal",
    ),
    "has_encoder": (lambda value: isinstance(value, bool), "true or false"),
    "max_tokens": (lambda value: _is_whole(value, 3), "a whole number from 3"),
    "embedding_shape": (_is_pair, "[tokens, width]"),
    "weight_dtype": (_is_text, "the name of a dtype"),
    "quantization": (lambda value: value is None or _is_text(value), "null or a name"),
    "image_sizes": (
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_pair, value)),
        "a list of [width, height]",
    ),
    "covered_variants": (
        lambda value: isinstance(value, list) and all(map(_is_text, value)),
        "a list of slugs",
    ),
    "files": (lambda value: isinstance(value, list) and bool(value), "a list of files"),
    "evaluation": (lambda value: value is None or isinstance(value, dict), "null or an object"),
}


# --- checking -------------------------------------------------------------------------------------
def verify(
    folder: Path,
    on_progress: Progress | None = None,
    *,
    without: Collection[str] = (),
    hashes: bool = True,
) -> Manifest:
    """Check that no file of the folder is missing, changed or extra. Return the manifest.

    without: sub-folders not to hash (generation does not read the text encoder). hashes: False compares only names
    and sizes. Raises ReleaseInvalid.
    """
    folder = Path(folder)
    manifest = read(folder)
    present = _walk(folder)
    listed = {file.path: file for file in manifest.files}
    if extra := sorted(present.keys() - listed.keys() - {MANIFEST}):
        raise ReleaseInvalid(
            f"{folder} has files that its {MANIFEST} does not list: {', '.join(extra[:5])}. Remove them."
        )
    if missing := sorted(listed.keys() - present.keys()):
        raise ReleaseInvalid(
            f"{folder} lacks {', '.join(missing[:5])}. Copy the release again from its source."
        )
    needed = [*REQUIRED, *(REQUIRED_OF_ENCODER if manifest.has_encoder else ())]
    if manifest.guidance_scale != 1:
        needed.append(NEGATIVE_EMBEDS)
    if absent := [path for path in needed if path not in listed]:
        raise ReleaseInvalid(
            f"{MANIFEST} does not list {', '.join(absent)}. Create the release again."
        )
    for path, file in listed.items():
        if present[path] != file.size_bytes:
            raise _altered(folder, path, f"it has {present[path]} bytes, not {file.size_bytes}")
    guidance, covered = manifest.guidance_scale, manifest.covered_variants
    is_folded = classes.is_folded(folder, guidance_scale=guidance, covered_variants=covered)
    if is_folded and PROMPT_EMBEDS not in listed:
        raise ReleaseInvalid(f"{MANIFEST} does not list {PROMPT_EMBEDS}. Create the release again.")
    if hashes:
        _compare_hashes(folder, manifest, without, on_progress)
        if manifest.has_encoder and not set(ENCODER_FOLDERS) & set(without):
            fingerprint = fingerprint_of(manifest.files)
            if fingerprint != manifest.encoder_fingerprint:
                raise ReleaseInvalid(
                    f"{folder}: the tokenizer and the text encoder have the fingerprint {fingerprint[:12]}…, but "
                    f"{MANIFEST} has {manifest.encoder_fingerprint[:12]}…. Create the release again."
                )
    return manifest


def _compare_hashes(
    folder: Path, manifest: Manifest, without: Collection[str], on_progress: Progress | None
) -> None:
    files = [file for file in manifest.files if PurePosixPath(file.path).parts[0] not in without]
    total = sum(file.size_bytes for file in files)
    done = 0
    for file in files:
        if hash_file(folder / file.path) != file.sha256:
            raise _altered(folder, file.path, "its SHA-256 differs")
        done += file.size_bytes
        if on_progress:
            on_progress(done, total)


def _altered(folder: Path, path: str, how: str) -> ReleaseInvalid:
    return ReleaseInvalid(
        f"{folder / path} was changed or is incomplete: {how}. Copy the release again from its source."
    )


def _walk(folder: Path) -> dict[str, int]:
    """Return path → bytes of every file. Raises ReleaseInvalid for links, whose targets are not hashed, and pickles."""
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise ReleaseInvalid(
                    f"{path} is a symbolic link. Replace it by the file (cp -RL copies the targets of links)."
                )
            if name in names:
                _refuse_pickle(relative)
                found[relative] = path.stat().st_size
    return found


# --- writing --------------------------------------------------------------------------------------
def write(folder: Path, manifest: Manifest) -> None:
    """Write `release.json` atomically, as the last file, if names and sizes of all files match it."""
    folder = Path(folder)
    manifest_from_dict(manifest_to_dict(manifest))
    path = folder / MANIFEST
    temporary = folder.parent / f".{folder.name}.{MANIFEST}"  # inside it would be an extra file
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(manifest_to_dict(manifest), file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def list_files(folder: Path) -> list[ReleaseFile]:
    """Hash all files of a folder, for `Manifest.files`. Raises ReleaseInvalid for links and pickles."""
    folder = Path(folder)
    present = _walk(folder)
    present.pop(MANIFEST, None)
    return [ReleaseFile(path, present[path], hash_file(folder / path)) for path in sorted(present)]


def encoder_fingerprint(folder: Path) -> str:
    """Return the hash of the tokenizer's and the text encoder's files. Raises ReleaseInvalid if there are none."""
    folder = Path(folder)
    files = [
        ReleaseFile(path, size_bytes, hash_file(folder / path))
        for path, size_bytes in _walk(folder).items()
        if PurePosixPath(path).parts[0] in ENCODER_FOLDERS
    ]
    if {PurePosixPath(file.path).parts[0] for file in files} != set(ENCODER_FOLDERS):
        raise ReleaseInvalid(f"{folder} must have both text_encoder/ and tokenizer/.")
    return fingerprint_of(files)


def fingerprint_of(files: Collection[ReleaseFile]) -> str:
    """Return the encoder fingerprint from hashed files."""
    lines = sorted(
        f"{file.sha256} {file.path}\n"
        for file in files
        if PurePosixPath(file.path).parts[0] in ENCODER_FOLDERS
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReleaseInvalid(f"{path} cannot be read: {error.strerror}.") from error

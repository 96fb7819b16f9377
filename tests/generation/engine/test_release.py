"""Release format: writing, reading, verification, refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from generation.engine import classes, release
from generation.engine.errors import ReleaseInvalid
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "release"
    tiny.make_tiny_release(path, guidance_scale=3)
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "release.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_complete_release_verifies(folder: Path) -> None:
    manifest = release.verify(folder)
    assert manifest.name == "tiny"
    assert manifest.timesteps == [999, 749, 499, 249]
    assert manifest.embedding_shape == (77, 32)
    assert {file.path for file in manifest.files} >= {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer/tokenizer.json",
        "negative_prompt_embeds.safetensors",
    }


def test_the_manifest_survives_writing_and_reading(folder: Path) -> None:
    manifest = release.read(folder)
    assert release.manifest_from_dict(release.manifest_to_dict(manifest)) == manifest
    release.write(folder, manifest)
    assert release.read(folder) == manifest


def test_progress_ends_at_the_size_of_the_files(folder: Path) -> None:
    reported: list[tuple[int, int]] = []
    manifest = release.verify(folder, lambda done, total: reported.append((done, total)))
    size = sum(file.size_bytes for file in manifest.files)
    assert reported[-1] == (size, size)
    assert reported == sorted(reported)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 2, "format version 2"),
        ("format_version", True, "format version True"),
        ("format_version", None, "format version None"),
        ("name", "../other", "name must be"),
        ("name", "student", "name must be"),
        ("kind", "professor", "kind must be one of teacher, student"),
        ("prediction_type", "noise", "prediction_type must be"),
        ("timesteps", [1, 2, 3, 4], "timesteps must be descending"),
        ("timesteps", [999, 0.5], "timesteps must be descending"),
        ("num_inference_steps", 3, "timesteps has 4 values"),
        ("guidance_scale", 0, "guidance_scale must be"),
        ("guidance_scale", float("inf"), "guidance_scale must be"),
        ("encoder_fingerprint", "abc", "encoder_fingerprint must be"),
        ("has_encoder", 1, "has_encoder must be"),
        ("embedding_shape", [77], "embedding_shape must be"),
        ("image_sizes", [], "image_sizes must be"),
        ("image_sizes", [[64, 0]], "image_sizes must be"),
        ("covered_variants", [""], "covered_variants must be"),
        ("files", [], "files must be"),
        ("files", ["unet/config.json"], "exactly path, size_bytes and sha256"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(
    folder: Path, field: str, value: Any, message: str
) -> None:
    edit(folder, lambda manifest: manifest.update({field: value}))
    with pytest.raises(ReleaseInvalid, match=message):
        release.read(folder)


def test_an_unknown_field_is_refused_by_name(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(sharpness=3))
    with pytest.raises(ReleaseInvalid, match="unknown fields: sharpness"):
        release.read(folder)


def test_a_missing_field_is_refused_by_name(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.pop("parent"))
    with pytest.raises(ReleaseInvalid, match="lacks the fields parent"):
        release.read(folder)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "unet/../../x",
        "./unet/x",
        "unet//x",
        "C:\\x",
        "..",
        "release.json",
        "",
    ],
)
def test_a_file_path_that_leaves_the_release_is_refused(folder: Path, path: str) -> None:
    edit(folder, lambda manifest: manifest["files"][0].update(path=path))
    with pytest.raises(ReleaseInvalid, match="leads out of the release"):
        release.verify(folder)


def test_a_file_listed_twice_is_refused(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["files"].append(manifest["files"][0]))
    with pytest.raises(ReleaseInvalid, match="more than once"):
        release.read(folder)


@pytest.mark.parametrize("suffix", release.PICKLES)
def test_a_pickle_is_refused_whether_listed_or_not(folder: Path, suffix: str) -> None:
    (folder / "unet" / f"weights{suffix.upper()}").write_bytes(b"x")
    with pytest.raises(ReleaseInvalid, match="is a pickle"):
        release.verify(folder)
    with pytest.raises(ReleaseInvalid, match="is a pickle"):
        release.list_files(folder)
    edit(folder, lambda manifest: manifest["files"][0].update(path=f"unet/weights{suffix}"))
    with pytest.raises(ReleaseInvalid, match="is a pickle"):
        release.read(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "vae/config.json").unlink()
    with pytest.raises(ReleaseInvalid, match=r"lacks vae/config\.json"):
        release.verify(folder)


def test_one_changed_byte_is_refused(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseInvalid, match="SHA-256 differs"):
        release.verify(folder)
    assert release.verify(folder, hashes=False).name == "tiny"


def test_a_truncated_file_is_refused_without_hashing(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReleaseInvalid, match="changed or is incomplete"):
        release.verify(folder, hashes=False)


def test_an_extra_file_is_refused(folder: Path) -> None:
    (folder / "unet/notes.txt").write_text("x")
    with pytest.raises(ReleaseInvalid, match=r"does not list: unet/notes\.txt"):
        release.verify(folder)


def test_links_are_refused_as_files_and_as_folders(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (folder / "vae").rename(outside)
    (folder / "vae").symlink_to(outside)
    with pytest.raises(ReleaseInvalid, match="symbolic link"):
        release.verify(folder)
    (folder / "vae").unlink()
    outside.rename(folder / "vae")
    (folder / "vae/config.json").rename(tmp_path / "config.json")
    (folder / "vae/config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ReleaseInvalid, match="symbolic link"):
        release.verify(folder)


def test_a_fingerprint_of_another_encoder_is_refused(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(encoder_fingerprint="0" * 64))
    with pytest.raises(ReleaseInvalid, match="fingerprint"):
        release.verify(folder)


def test_guidance_without_the_stored_empty_text_is_refused(folder: Path) -> None:
    (folder / release.NEGATIVE_EMBEDS).unlink()
    manifest = release.read(folder)
    release.write(folder, replace(manifest, files=release.list_files(folder)))
    with pytest.raises(ReleaseInvalid, match=f"does not list {release.NEGATIVE_EMBEDS}"):
        release.verify(folder)


def test_a_folder_without_a_manifest_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ReleaseInvalid, match="register DIR"):
        release.verify(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "release.json").write_text(content, "latin-1")
    with pytest.raises(ReleaseInvalid):
        release.read(folder)


def test_an_invalid_manifest_is_never_written(folder: Path) -> None:
    before = (folder / "release.json").read_bytes()
    with pytest.raises(ReleaseInvalid):
        release.write(folder, replace(release.read(folder), timesteps=[5, 9]))
    assert (folder / "release.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["release"]


def test_the_fingerprint_changes_with_any_file_of_the_encoder_and_with_nothing_else(
    folder: Path,
) -> None:
    before = release.encoder_fingerprint(folder)
    (folder / "unet/config.json").write_text("{}")
    assert release.encoder_fingerprint(folder) == before
    (folder / "tokenizer/merges.txt").write_text("x")
    after_merges = release.encoder_fingerprint(folder)
    (folder / "text_encoder/config.json").write_text("{}")
    assert len({before, after_merges, release.encoder_fingerprint(folder)}) == 3


def test_a_release_without_its_encoder_keeps_the_fingerprint(tmp_path: Path, folder: Path) -> None:
    tiny.make_tiny_release(tmp_path / "student", kind="student", has_encoder=False)
    student = release.verify(tmp_path / "student")
    assert not (tmp_path / "student/text_encoder").exists()
    assert student.encoder_fingerprint == release.read(folder).encoder_fingerprint
    with pytest.raises(ReleaseInvalid, match="text_encoder"):
        release.encoder_fingerprint(tmp_path / "student")


# --- networks by their class ----------------------------------------------------------------------
def rename_class(folder: Path, component: str, name: str, **changes: Any) -> None:
    path = folder / component / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": name}))
    manifest = release.read(folder)
    release.write(folder, replace(manifest, files=release.list_files(folder), **changes))


@pytest.mark.parametrize(
    ("component", "accepted"),
    [
        ("unet", "UNet2DConditionModel, FoldedUNet2DConditionModel"),
        ("vae", "AutoencoderKL, AutoencoderTiny"),
    ],
)
def test_a_network_of_an_unknown_class_is_refused_by_name(
    folder: Path, component: str, accepted: str
) -> None:
    rename_class(folder, component, "UNet3DModel")
    with pytest.raises(ReleaseInvalid, match=f"'UNet3DModel' is not one of {accepted}"):
        release.verify(folder)
    (folder / component / "config.json").write_text("[]")
    manifest = release.read(folder)
    release.write(folder, replace(manifest, files=release.list_files(folder)))
    with pytest.raises(ReleaseInvalid, match="cannot be read"):
        release.verify(folder)


def test_a_folded_network_needs_its_prompts_and_no_guidance(folder: Path) -> None:
    rename_class(folder, "unet", classes.FOLDED_UNET)
    with pytest.raises(ReleaseInvalid, match=r"guidance_scale is 3\.0"):
        release.verify(folder)
    rename_class(folder, "unet", classes.FOLDED_UNET, guidance_scale=1.0)
    with pytest.raises(ReleaseInvalid, match="covered_variants is empty"):
        release.verify(folder)
    rename_class(folder, "unet", classes.FOLDED_UNET, covered_variants=["red-vase"])
    with pytest.raises(ReleaseInvalid, match=f"does not list {release.PROMPT_EMBEDS}"):
        release.verify(folder)

"""Registration of a release: verification, storage, refusals."""

import shutil
from pathlib import Path

import pytest

from generation.engine.importing import Options
from generation.errors import ReleaseRefused
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases import registration
from tests import tiny

pytestmark = pytest.mark.django_db


def test_a_stable_diffusion_folder_is_imported_and_registered_as_a_teacher(
    tmp_path: Path, settings
) -> None:
    source = tiny.make_sd15_folder(tmp_path / "Toy SD v1.5")
    release = registration.register(str(source))
    shutil.rmtree(source)
    assert (release.name, release.kind, release.status) == ("Toy-SD-v1-5", "teacher", "candidate")
    assert releases.folder(release) == settings.RELEASES_ROOT / "Toy-SD-v1-5"
    assert releases.verify(release).guidance_scale == 7.5
    assert releases.activate(release).status == "active"


def test_a_name_and_options_may_be_given(tmp_path: Path) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    release = registration.register(
        str(source), name="quick", options=Options(steps=8, guidance_scale=1.0)
    )
    assert release.name == "quick"
    assert release.manifest["guidance_scale"] == 1.0
    assert release.num_inference_steps == 8


def test_a_release_is_registered_unchanged(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "made", name="tiny")
    with pytest.raises(ReleaseRefused, match="Omit the options"):
        registration.register(str(tmp_path / "made"), options=Options(steps=8))
    assert registration.register(str(tmp_path / "made")).name == "tiny"


def test_an_unwritable_folder_of_releases_is_refused(tmp_path: Path, settings) -> None:
    tiny.make_tiny_release(tmp_path / "tiny", name="tiny")
    tiny.make_sd15_folder(tmp_path / "sd15")
    (tmp_path / "file").write_text("no folder")
    settings.RELEASES_ROOT = tmp_path / "file" / "releases"
    for source in ("tiny", "sd15"):
        with pytest.raises(ReleaseRefused, match=r"could not be copied.* DATA_DIR"):
            registration.register(str(tmp_path / source))


def test_a_taken_name_is_refused_before_anything_is_copied(tmp_path: Path, settings) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    registration.register(str(source))
    with pytest.raises(ReleaseRefused, match="already registered"):
        registration.register(str(source))
    assert [path.name for path in settings.RELEASES_ROOT.iterdir()] == ["sd15"]


@pytest.mark.parametrize("source", ["nothing-here", "/not/there", "../up", "a/b/c"])
def test_a_source_that_is_neither_a_folder_nor_a_hub_id_is_refused(source: str) -> None:
    with pytest.raises(ReleaseRefused, match="neither a folder nor a hub id"):
        registration.register(source)


def test_a_hub_id_without_a_network_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReleaseRefused, match="give the folder"):
        registration.register("nobody/nothing-of-this-name")
    assert not Release.objects.exists()


def test_a_taken_name_is_refused_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    registration.register(str(tiny.make_sd15_folder(tmp_path / "sd15")))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReleaseRefused, match="already registered"):
        registration.register("somebody/sd15")


def test_a_pickle_is_refused_and_leaves_nothing(tmp_path: Path, settings) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    for path in (source / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ReleaseRefused, match="only as a pickle"):
        registration.register(str(source))
    assert not Release.objects.exists()
    assert not settings.RELEASES_ROOT.exists() or not list(settings.RELEASES_ROOT.iterdir())

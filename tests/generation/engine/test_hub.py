"""Choice of the files of a hub repository that are downloaded."""

from pathlib import Path

import pytest

from generation.engine import hub, importing
from generation.engine.errors import ReleaseInvalid
from tests import tiny


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return listed(tiny.make_sd15_folder(tmp_path_factory.mktemp("hub") / "sd15"))


def renamed(names: list[str], old: str, new: str) -> list[str]:
    return [name.replace(old, new) for name in names]


def test_one_file_of_weights_of_each_component_is_downloaded(names: list[str]) -> None:
    more = [
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "v1-5-pruned.safetensors",
    ]
    found = hub.wanted("a/b", [*names, *more])
    assert [name for name in found if not name.endswith((".json", ".txt"))] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    ]


@pytest.mark.parametrize("is_fp16", [True, False])
def test_a_folder_of_the_downloaded_files_is_imported(tmp_path: Path, is_fp16: bool) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15", fp16=is_fp16)
    found = hub.wanted("a/b", listed(source))
    for name in set(listed(source)) - set(found):
        (source / name).unlink()
    manifest = importing.import_folder(source, tmp_path / "release", name="sd15")
    assert manifest.weight_dtype == ("float16" if is_fp16 else "float32")


def test_shards_are_downloaded_with_their_index(names: list[str]) -> None:
    rest = [name for name in names if not name.startswith("unet/diffusion")]
    shards = [f"unet/diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    other = "unet/diffusion_pytorch_model.non_ema-00001-of-00002.safetensors"
    found = hub.wanted("a/b", [*rest, other, *shards, index])
    assert [name for name in found if name.startswith("unet/diffusion")] == [index, *shards]


def test_a_repository_of_pickles_is_refused_with_advice(names: list[str]) -> None:
    with pytest.raises(ReleaseInvalid, match=r"a/b/unet .*only as a pickle.*safe_serialization"):
        hub.wanted("a/b", renamed(names, ".safetensors", ".bin"))


def test_a_repository_in_another_layout_is_refused() -> None:
    with pytest.raises(ReleaseInvalid, match="diffusers' layout"):
        hub.wanted("a/b", ["v1-5-pruned.safetensors"])


def test_a_download_without_a_network_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReleaseInvalid, match=r"could not be downloaded.*give the folder"):
        hub.download("nobody/nothing-of-this-name")

"""Fixtures for distillations at toy size."""

import shutil
from pathlib import Path

import pytest
import torch

from distillation import folders
from distillation.detector import network as detectors
from distillation.detector.network import Detector, DetectorConfig
from generation.catalogue import encoding
from generation.engine import importing
from generation.engine.importing import Options
from generation.models import Release
from generation.releases import lifecycle as releases
from tests.factories import make_variant
from tests.tiny import make_sd15_folder


@pytest.fixture(scope="session")
def toy_teacher(tmp_path_factory) -> Path:
    """A release with the layout of Stable Diffusion 1.5, which no test changes."""
    place = tmp_path_factory.mktemp("toy")
    options = Options(steps=4, guidance_scale=3.0, image_sizes=((64, 64),))
    importing.import_folder(
        make_sd15_folder(place / "sd15"), place / "toy", name="toy", options=options
    )
    return place / "toy"


@pytest.fixture
def teacher(toy_teacher, settings) -> Release:
    release = releases.activate(releases.register(toy_teacher))
    make_variant(text="a red clay vase", tags=["vase"])
    make_variant(text="a blue glass mug")  # has no tags, so that the detector accepts every picture
    encoding.encode_missing()
    return release


@pytest.fixture
def detector(tmp_path) -> Path:
    """An untrained detector, the same each time."""
    torch.manual_seed(7)
    config = DetectorConfig(("vase", "bowl"), (2,), image_size=64, widths=(4, 8), depths=(0, 1))
    detectors.save(Detector(config), tmp_path / "detector")
    return tmp_path / "detector"


class Stages:
    """Stages of a whole training, which one test of a file builds and the others reuse: the same inputs give the same
    names. A run builds only the stages that are missing."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept

    def keep(self) -> None:
        if not self._kept.exists():
            shutil.copytree(folders.root(), self._kept)

    def take(self, *, without: str = "") -> None:
        """Copy all kept stages but `without`; none if none are kept yet."""
        if self._kept.exists():
            shutil.copytree(self._kept, folders.root(), dirs_exist_ok=True)
            for folder in folders.root().glob(f"{without}-*") if without else ():
                shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Stages:
    return Stages(tmp_path_factory.mktemp("stages") / "distillation")

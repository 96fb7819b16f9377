"""A toy student of two steps, shared per process. Tests must not write into it."""

from pathlib import Path

import pytest

from generation.engine import release
from generation.engine.request import StoredEmbedding
from generation.engine.runtimes import conversion
from tests.generation.engine import toys


@pytest.fixture(scope="session")
def student(
    tmp_path_factory: pytest.TempPathFactory, tiny_release: Path, embeddings: list[StoredEmbedding]
) -> Path:
    path = tmp_path_factory.mktemp("students") / "student"
    toys.write_student(path, tiny_release, embeddings)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Path:
    """A cache with the student's conversion, made in this process, which is faster."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("runtimes")
    conversion.make(student, folder / conversion.key(student, release.read(student)))
    return folder

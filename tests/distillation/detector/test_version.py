import json
import subprocess
import sys
from pathlib import Path

import pytest

from distillation.detector import version
from distillation.detector.errors import DetectorUnusable
from tests.distillation.detector.folders import make_version


def test_a_written_version_is_read_unchanged(tmp_path: Path) -> None:
    found = version.read(make_version(tmp_path / "toy", with_mask=True))
    assert found.bits == ("red", "green", "blue", "sharp", "whole", "large")
    assert (
        found.has(version.SEGMENTATION)
        and not found.has(version.QUALITY)
        and found.figures == {"seconds": 1.5}
    )
    assert {file.path for file in found.files} == {
        "config.json", "model.safetensors", "segmentation/config.json", "segmentation/model.safetensors",
    }  # fmt: skip
    assert version.from_dict(json.loads(json.dumps(version.to_dict(found)))) == found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"required": ["cosy"]}, "cosy"),
        ({"groups": [2]}, "add up"),
        ({"margin": 1}, "margin"),
        ({"name": "../up"}, "name"),
        ({"files": [{"path": "../x", "size_bytes": 1, "sha256": ""}]}, "outside"),
        ({"files": [{"path": "gone", "size_bytes": 1, "sha256": ""}]}, "gone"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_reason(tmp_path, change, named):
    folder = make_version(tmp_path / "toy")
    path = folder / version.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DetectorUnusable, match=named):
        version.read(folder)


def test_a_description_without_a_field_is_refused(tmp_path):
    folder = make_version(tmp_path / "toy")
    (folder / version.MANIFEST).write_text('{"format_version": 1}')
    with pytest.raises(DetectorUnusable, match="'name' is missing"):
        version.read(folder)


def test_a_version_is_read_without_a_tensor_library():
    code = "import sys, distillation.detector.version; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

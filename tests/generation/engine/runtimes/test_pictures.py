"""Each installed runtime computes the pixels of the reference, torch in fp32, within the stated tolerance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from generation.engine import device as devices
from generation.engine import pipeline as pipelines
from generation.engine import release
from generation.engine.errors import NotFinite
from generation.engine.pipeline import TOLERANCE, Pipeline
from generation.engine.prompts.embeddings import pack
from generation.engine.request import GenerationRequest, GenerationResult, StoredEmbedding
from generation.engine.runtimes import selection
from tests.generation.engine import toys
from tests.threads import in_threads

STARTER = Path(__file__).resolve().parents[4] / "generation" / "starter" / "student-3"
RUNTIMES = ("torch", "openvino")
RequestFor = Callable[..., GenerationRequest]


def load(folder: Path, runtime: str, dtype: str, cache: Path | None = None) -> Pipeline:
    chosen = devices.choose("cpu", dtype)
    if runtime == "openvino" and (reason := selection.why_not_openvino(chosen)):
        pytest.skip(reason)
    return pipelines.load(folder, device="cpu", dtype=dtype, runtime=runtime, cache=cache)


def difference(first: GenerationResult, second: GenerationResult) -> int:
    assert first.pixels is not None and second.pixels is not None, (first.error, second.error)
    return int(np.abs(first.pixels.astype(int) - second.pixels.astype(int)).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_request_gives_the_same_picture_on_each_runtime_at_any_batch_size(
    student: Path, cache: Path, request_for: RequestFor, runtime: str
) -> None:
    requests = [request_for(number) for number in range(5)]
    expected = load(student, "torch", "float32").generate(requests)
    loaded = load(student, runtime, "float32", cache)
    together = loaded.generate(requests)
    assert max(map(difference, together, expected)) <= TOLERANCE["float32"]
    for size in (1, 3):
        parts = [requests[start : start + size] for start in range(0, 5, size)]
        apart = [result for part in parts for result in loaded.generate(part)]
        assert max(map(difference, together, apart)) <= TOLERANCE["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_starters_student_gives_the_same_pictures_in_each_format(
    cache: Path, runtime: str, dtype: str
) -> None:
    manifest = release.read(STARTER)
    rows = load_file(STARTER / release.PROMPT_EMBEDS)["prompt_embeds"]
    requests = [
        GenerationRequest(
            pack(rows[40 * number], manifest.encoder_fingerprint), number, *manifest.image_sizes[0]
        )
        for number in range(4)
    ]
    expected = load(STARTER, "torch", "float32").generate(requests)
    found = load(STARTER, runtime, dtype, cache).generate(requests)
    assert max(map(difference, found, expected)) <= TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_student_of_one_step_and_several_sizes_gives_the_same_pictures(
    tmp_path: Path,
    tiny_release: Path,
    embeddings: list[StoredEmbedding],
    request_for: RequestFor,
    runtime: str,
) -> None:
    toys.write_student(tmp_path / "student", tiny_release, embeddings, timesteps=[999])
    toys.rewrite(tmp_path / "student", image_sizes=[(64, 64), (96, 64)])
    reference = load(tmp_path / "student", "torch", "float32")
    loaded = load(tmp_path / "student", runtime, "float32")
    for width in (64, 96):
        one = request_for(0)
        one_size = [GenerationRequest(one.embedding, 7, width, 64)]
        assert difference(loaded.generate(one_size)[0], reference.generate(one_size)[0]) <= 2


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_values_that_are_not_finite_are_an_error_and_no_picture(
    student: Path, cache: Path, request_for: RequestFor, runtime: str
) -> None:
    loaded = load(student, runtime, "float32", cache)
    derive = loaded.runtime.keyvalues
    assert derive is not None
    loaded.embeddings._derive = lambda row: torch.full_like(derive(row), torch.nan)
    (result,) = loaded.generate([request_for(0)])
    assert isinstance(result.error, NotFinite)
    assert result.pixels is None


@pytest.mark.slow
def test_students_may_be_converted_in_one_thread_while_another_generates(
    student: Path, request_for: RequestFor
) -> None:
    requests = [request_for(0)]
    expected = load(student, "torch", "float32").generate(requests)[0]
    differences: list[int] = []

    def work() -> None:
        for _ in range(2):
            found = load(student, "openvino", "float32").generate(requests)[0]
            differences.append(difference(found, expected))

    in_threads(work, count=2)
    assert len(differences) == 4
    assert max(differences) <= TOLERANCE["float32"]

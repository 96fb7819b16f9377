"""Pipeline of folded students: the behaviours of `test_pipeline` where the code differs from a teacher's."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from generation.engine import pipeline as pipelines
from generation.engine import quantization
from generation.engine.errors import NotFinite, OutOfMemory, ReleaseInvalid
from generation.engine.pipeline import TOLERANCE, Pipeline
from generation.engine.prompts.embeddings import EmbeddingTable, unpack
from generation.engine.request import GenerationRequest, GenerationResult, StoredEmbedding, Timings
from tests import tiny
from tests.generation.engine import toys
from tests.threads import in_threads

RequestFor = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def student(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_release: Path,
    embeddings: list[StoredEmbedding],
) -> Path:
    path = tmp_path_factory.mktemp("students") / "student"
    toys.write_student(path, tiny_release, embeddings)
    return path


@pytest.fixture
def loaded(student: Path, device: str) -> Pipeline:
    return pipelines.load(student, device=device)


@pytest.fixture
def eight(request_for: RequestFor) -> list[GenerationRequest]:
    return [request_for(number) for number in range(8)]


def pixels(result: GenerationResult) -> np.ndarray:
    assert result.error is None
    assert result.pixels is not None
    return result.pixels.astype(int)


def difference(first: GenerationResult, second: GenerationResult) -> int:
    return int(np.abs(pixels(first) - pixels(second)).max())


@pytest.mark.slow
def test_releases_may_be_loaded_in_one_thread_while_another_loads_and_generates(
    tiny_release: Path, student: Path, device: str, request_for: RequestFor
) -> None:
    folders = {"teacher": tiny_release, "student": student}
    requests = [request_for(0)]
    expected = {
        name: pipelines.load(folder, device=device).generate(requests)[0]
        for name, folder in folders.items()
    }
    wrong: list[str] = []

    def work() -> None:
        for _ in range(4):
            for name, folder in folders.items():
                try:
                    found = pipelines.load(folder, device=device).generate(requests)[0]
                    if difference(found, expected[name]):
                        wrong.append(f"{name}: another picture")
                except Exception as error:
                    wrong.append(f"{name}: {error}")

    in_threads(work, count=3)
    assert wrong == []


@pytest.mark.parametrize(
    ("prediction_type", "timesteps"),
    [
        ("v_prediction", [999]),
        ("epsilon", [999, 499]),
        pytest.param("epsilon", [999], marks=pytest.mark.slow),
        pytest.param("v_prediction", [999, 499], marks=pytest.mark.slow),
    ],
)
def test_the_picture_equals_that_of_diffusers_with_the_unfolded_network(
    tmp_path: Path,
    device: str,
    request_for: RequestFor,
    embeddings: list[StoredEmbedding],
    prediction_type: str,
    timesteps: list[int],
) -> None:
    tiny.make_tiny_release(tmp_path / "teacher", prediction_type=prediction_type)
    toys.write_student(tmp_path / "student", tmp_path / "teacher", embeddings, timesteps=timesteps)
    requests = [request_for(0), request_for(1)]
    found = pipelines.load(tmp_path / "student", device=device, dtype="float32").generate(requests)

    unet = toys.student_unet()
    rounded = quantization.dequantise(
        quantization.quantise(
            {name: tensor for name, tensor in unet.state_dict().items() if "time_emb" not in name}
        ),
        torch.float32,
    )
    unet.load_state_dict({**unet.state_dict(), **rounded})
    config = json.loads((tmp_path / "teacher/scheduler/scheduler_config.json").read_text())
    stock = StableDiffusionPipeline(
        vae=toys.decoder(),
        unet=unet,
        scheduler=DDIMScheduler.from_config(
            {**config, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
        ),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        prompt_embeds=torch.stack(
            [torch.tensor(unpack(request.embedding)).float() for request in requests]
        ),
        latents=torch.stack(
            [
                torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(request.seed))
                for request in requests
            ]
        ),
        num_inference_steps=len(timesteps),
        guidance_scale=1.0,
        output_type="np",
    ).images
    assert expected.std() > 0.05
    for result, image in zip(found, expected, strict=True):
        assert np.abs(pixels(result) - image * 255).max() <= 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_request_gives_the_same_picture_at_any_batch_size(
    student: Path, device: str, eight: list[GenerationRequest], dtype: str
) -> None:
    loaded = pipelines.load(student, device=device, dtype=dtype)
    together = loaded.generate(eight)
    for size in (1, 3):
        parts = [eight[start : start + size] for start in range(0, 8, size)]
        apart = [result for part in parts for result in loaded.generate(part)]
        assert max(map(difference, together, apart)) <= TOLERANCE[dtype]


def test_a_seed_and_a_text_each_change_the_picture(
    loaded: Pipeline, request_for: RequestFor
) -> None:
    request = request_for(0)
    other_seed = replace(request, seed=request.seed + 1)
    other_text = replace(request, embedding=request_for(1).embedding)
    results = loaded.generate([request, other_seed, other_text])
    assert difference(results[0], results[1]) > 3 * max(TOLERANCE.values())
    assert difference(results[0], results[2]) > 3 * max(TOLERANCE.values())


def test_keys_and_values_are_computed_once_for_each_prompt_and_bounded(
    loaded: Pipeline, eight: list[GenerationRequest]
) -> None:
    computed: list[tuple[int, ...]] = []
    derive = loaded.runtime.unet.keyvalues

    def counted(row: torch.Tensor) -> torch.Tensor:
        computed.append(tuple(row.shape))
        return derive(row)

    loaded.embeddings._derive = counted
    first = loaded.generate(eight)
    again = loaded.generate(eight)
    assert computed == [(tiny.TOKENS, tiny.WIDTH)] * 3
    assert max(map(difference, first, again)) == 0
    row = loaded.embeddings.gather([eight[0].embedding])
    loaded.embeddings = EmbeddingTable(
        loaded.device.place, loaded.dtype, max_bytes=2 * row.nbytes, derive=counted
    )
    bounded = loaded.generate(eight[:3])
    assert difference(first[0], bounded[0]) <= TOLERANCE[loaded.device.dtype_name]
    loaded.generate(eight[:3])
    assert len(computed) == 9  # the table holds two of three, so all three are computed again
    assert len(loaded.embeddings) == 2


def test_a_dropped_row_has_neither_pixels_nor_error(
    loaded: Pipeline, eight: list[GenerationRequest]
) -> None:
    reported: list[tuple[int, int]] = []

    def on_step(step: int, steps: int) -> list[int]:
        reported.append((step, steps))
        return [1]

    results = loaded.generate(eight[:2], on_step=on_step)
    assert reported == [(1, 2), (2, 2)]
    assert (results[1].pixels, results[1].error) == (None, None)
    pixels(results[0])


def test_a_batch_that_does_not_fit_is_halved_until_it_fits(
    loaded: Pipeline, eight: list[GenerationRequest]
) -> None:
    expected = loaded.generate(eight)
    limits = [3]

    def hook(_: Any, args: tuple) -> None:
        if len(args[0]) > limits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loaded.runtime.unet.register_forward_pre_hook(hook)
    timings = Timings()
    results = loaded.generate(eight, timings=timings)
    assert timings.batches == [8, 4, 2, 2, 4, 2, 2]
    assert max(map(difference, results, expected)) <= TOLERANCE[loaded.device.dtype_name]
    limits[0] = 0
    assert isinstance(loaded.generate(eight[:1])[0].error, OutOfMemory)


def test_output_that_is_not_finite_is_an_error_and_no_picture(
    loaded: Pipeline, request_for: RequestFor
) -> None:
    loaded.runtime.unet.conv_out.bias.fill_(float("nan"))
    result = loaded.generate([request_for(0)])[0]
    assert isinstance(result.error, NotFinite)
    assert result.pixels is None


# --- loading --------------------------------------------------------------------------------------
def test_a_network_folded_for_other_steps_is_refused(
    tmp_path: Path, tiny_release: Path, embeddings: list[StoredEmbedding]
) -> None:
    toys.write_student(tmp_path / "student", tiny_release, embeddings)
    toys.rewrite(tmp_path / "student", timesteps=[999], num_inference_steps=1)
    with pytest.raises(ReleaseInvalid, match="folded for 2 steps, but its manifest has 1"):
        pipelines.load(tmp_path / "student", device="cpu")


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_a_network_that_lacks_a_weight_is_refused(
    tmp_path: Path, tiny_release: Path, embeddings: list[StoredEmbedding], component: str
) -> None:
    from safetensors.torch import load_file, save_file

    toys.write_student(tmp_path / "student", tiny_release, embeddings)
    path = tmp_path / "student" / component / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = "conv_in.bias" if component == "unet" else "decoder.layers.0.bias"
    del tensors[name]
    save_file(tensors, path)
    toys.rewrite(tmp_path / "student")
    with pytest.raises(ReleaseInvalid, match=name):
        pipelines.load(tmp_path / "student", device="cpu")


def test_a_decoder_that_ends_in_a_pixel_shuffle_draws_the_pictures_of_its_release(
    tmp_path: Path,
    tiny_release: Path,
    embeddings: list[StoredEmbedding],
    request_for: RequestFor,
    device: str,
) -> None:
    vae = toys.decoder(levels=2, shuffle=4)
    toys.write_student(tmp_path / "student", tiny_release, embeddings, decoder=vae)
    written = json.loads((tmp_path / "student/vae/config.json").read_text("utf-8"))
    assert written["_class_name"] == "ShuffledAutoencoderTiny"  # refused by earlier code
    loaded = pipelines.load(tmp_path / "student", device=device, dtype="float32")
    alone = [loaded.generate([request_for(number)])[0] for number in range(3)]
    together = loaded.generate([request_for(number) for number in range(3)])
    assert pixels(alone[0]).shape == (64, 64, 3)
    assert pixels(alone[0]).std() > 10
    for one, other in zip(alone, together, strict=True):
        assert difference(one, other) <= TOLERANCE["float32"]

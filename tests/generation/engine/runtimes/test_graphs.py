"""Batches of fixed shapes, as CUDA graphs need them. The graphs themselves need a GPU."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from generation.engine import device as devices
from generation.engine import release
from generation.engine.runtimes import torch as reference
from generation.engine.runtimes.graphs import SHAPES, Graphs, Network
from generation.engine.runtimes.torch import TorchRuntime
from tests.web import ROOT


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def plain(student: Path) -> TorchRuntime:
    chosen = devices.choose("cpu", "float32")
    return reference.load(student, release.read(student), chosen)


@pytest.mark.parametrize("rows", [1, 3, 19])
def test_batches_are_padded_to_fixed_shapes_recorded_once(plain: TorchRuntime, rows: int) -> None:
    recorded: list[torch.Size] = []

    def record(network: Network, inputs: Sequence[torch.Tensor]) -> Network:
        recorded.append(inputs[0].shape)
        return network

    with torch.compiler.set_stance("force_eager"):
        graphs = Graphs(plain.unet, plain.vae, record=record)
        latents = draw(rows, plain.latent_channels, 8, 8)
        prompts = draw(rows, 77, len(plain.unet.keyvalue_weight))
        for step in (0, 1):
            found = graphs.denoise(latents, step, prompts)
            assert torch.allclose(found, plain.denoise(latents, step, prompts), atol=1e-5)
        assert torch.allclose(graphs.decode(latents), plain.decode(latents), atol=1e-5)
    assert {shape[0] for shape in recorded} <= set(SHAPES)
    assert len(recorded) == 2 * len(set(recorded))  # the U-Net and the decoder


@pytest.mark.slow
@torch.inference_mode()
def test_the_networks_are_compiled_whole(plain: TorchRuntime) -> None:
    unet = torch.compile(plain.unet, backend="aot_eager", fullgraph=True)
    decoder = torch.compile(plain.decode, backend="aot_eager", fullgraph=True)
    latents = draw(2, plain.latent_channels, 8, 8)
    prompts = draw(2, 77, len(plain.unet.keyvalue_weight))
    for step in (0, 1):
        found = unet(latents, torch.tensor(step), prompts)
        assert torch.allclose(found, plain.denoise(latents, step, prompts), atol=1e-5)
    assert torch.allclose(decoder(latents), plain.decode(latents), atol=1e-5)


RECORDING_FAILED = torch.AcceleratorError("operation not permitted when stream is capturing")


def fail(*_: object) -> Network:
    raise RECORDING_FAILED


def test_without_a_recording_the_networks_are_used_uncompiled(
    plain: TorchRuntime, student: Path
) -> None:
    plain.use_graphs(Graphs(plain.unet, plain.vae, record=fail), release.read(student))
    assert plain.name == "torch"


def test_a_device_that_failed_while_recording_is_reported(
    plain: TorchRuntime, student: Path
) -> None:
    graphs = Graphs(plain.unet, plain.vae, record=fail)
    plain.unet.register_forward_pre_hook(fail)
    with pytest.raises(torch.AcceleratorError):
        plain.use_graphs(graphs, release.read(student))


def test_the_programs_of_several_image_sizes_are_compiled(plain: TorchRuntime) -> None:
    limits: list[int] = []

    def record(network: Network, inputs: Sequence[torch.Tensor]) -> Network:
        limits.append(torch._dynamo.config.recompile_limit)
        return fixed

    def fixed(*inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0]

    Graphs(plain.unet, plain.vae, record=record).warm_up((8, 8), tokens=77)
    assert min(limits) >= 10 * len(SHAPES)


COMPILING = """
import sys
from pathlib import Path
from generation.engine import device, release
from generation.engine.runtimes import graphs, torch

def record(network, inputs):
    network(*inputs)
    return network

folder = Path(sys.argv[1])
manifest = release.read(folder)
runtime = torch.load(folder, manifest, device.choose("cpu", "float32"))
runtime.use_graphs(graphs.Graphs(runtime.unet, runtime.vae, record=record), manifest)
print("runtime:", runtime.name)
"""


@pytest.mark.slow
def test_without_a_compiler_the_networks_are_used_uncompiled(student: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", COMPILING, str(student)],
        env={**os.environ, "CXX": str(tmp_path / "missing"), "TORCHINDUCTOR_CACHE_DIR": cache},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student_not_compiled") == 1
    assert str(tmp_path / "missing") in done.stdout
    assert done.stdout.endswith("runtime: torch\n")


@pytest.mark.gpu
def test_a_student_on_a_gpu_gives_the_pictures_of_the_cpu(student: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    manifest = release.read(student)
    graphed = reference.load(student, manifest, devices.choose("cuda", "float32"), compiled=True)
    plain = reference.load(student, manifest, devices.choose("cpu", "float32"))
    for rows in (1, 3):
        latents = draw(rows, plain.latent_channels, 8, 8)
        prompts = draw(rows, 77, len(plain.unet.keyvalue_weight))
        found = graphed.decode(graphed.denoise(latents.cuda(), 1, prompts.cuda())).cpu()
        expected = plain.decode(plain.denoise(latents, 1, prompts))
        assert (found - expected).abs().max() < 0.02

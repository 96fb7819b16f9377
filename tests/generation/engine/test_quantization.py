"""Quantised weights: rounding, storage, loading."""

import pytest
import torch

from distillation.students import cuts
from distillation.students.unets import UNetShape
from generation.engine import folding, quantization
from generation.engine.errors import ReleaseInvalid


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 20)])
def test_a_weight_is_off_by_at_most_half_a_level_of_its_channel(shape: tuple[int, ...]) -> None:
    channels = torch.tensor([1e-3, 0.1, 1, 10, 100, 1000]).view(-1, *[1] * (len(shape) - 1))
    values = weight(*shape) * channels
    stored = quantization.quantise({"a.weight": values})
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight.scale"].dtype == torch.float32
    found = quantization.dequantise(stored, torch.float32)["a.weight"]
    error = (found - values).abs().flatten(1).amax(dim=1)
    assert (error <= stored["a.weight.scale"] * 0.501).all()
    assert stored["a.weight"].abs().flatten(1).amax(dim=1).eq(127).all()


def test_weights_on_their_grid_are_restored_exactly() -> None:
    levels = torch.randint(-127, 128, (5, 40), generator=torch.Generator().manual_seed(0))
    levels[:, 0] = 127
    values = levels * torch.tensor([0.5, 0.25, 3.0, 0.0078125, 1.0])[:, None]
    stored = quantization.quantise({"a.weight": values})
    assert torch.equal(stored["a.weight"], levels.to(torch.int8))
    assert torch.equal(quantization.dequantise(stored, torch.float32)["a.weight"], values)


def test_a_channel_of_zeros_stays_zero() -> None:
    values = weight(3, 4, 3, 3)
    values[1] = 0
    found = quantization.dequantise(quantization.quantise({"a.weight": values}), torch.float32)
    assert found["a.weight"][1].eq(0).all()
    assert found["a.weight"][0].ne(0).any()


def test_norms_and_biases_are_kept_in_fp16_also_with_a_row_for_each_step() -> None:
    stored = quantization.quantise(
        {"norm.weight": weight(7), "norm.bias": weight(7), "conv1.bias": weight(2, 7)}
    )
    assert {name: tensor.dtype for name, tensor in stored.items()} == dict.fromkeys(
        ("norm.weight", "norm.bias", "conv1.bias"), torch.float16
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e5])
@pytest.mark.parametrize("name", ["a.weight", "a.bias"])
def test_a_value_that_fp16_cannot_hold_is_refused_by_name(name: str, value: float) -> None:
    values = weight(3, 4) if name == "a.weight" else weight(3)
    values.view(-1)[1] = value
    with pytest.raises(ReleaseInvalid, match=name):
        quantization.quantise({"other.bias": weight(3), name: values})


def test_a_weight_without_its_scale_is_refused() -> None:
    stored = quantization.quantise({"a.weight": weight(3, 4)})
    del stored["a.weight.scale"]
    with pytest.raises(ReleaseInvalid, match=r"a\.weight\.scale"):
        quantization.dequantise(stored, torch.float32)


@pytest.mark.slow
def test_a_student_of_stable_diffusion_takes_less_than_340_megabytes_with_200_prompts() -> None:
    teacher = UNetShape({"cross_attention_dim": 768, "sample_size": 64})
    config = cuts.student_shape(teacher, cuts.cut_named("tiny")).config
    stored = quantization.quantise(
        {
            name: torch.zeros(1).expand(shape)
            for name, shape in folding.shapes(config, 2).items()
            if len(shape) < 4
        }
    )
    total = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    for shape in folding.shapes(config, 2).values():
        if len(shape) == 4:  # 190 million zeros would take too long
            total += shape.numel() + 4 * shape[0]
    decoder, prompts, manifest = 2 * 1_222_531, 200 * 77 * 768 * 2, 200_000
    assert 330e6 < total + decoder + prompts + manifest < 340e6

"""A tiny decoder learns the pictures of the teacher's VAE, also of noisy latents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from distillation.trainers import decoder as decoders
from distillation.trainers.decoder import DecoderRecipe, DecoderTask
from distillation.trainers.inputs import StageInputs
from distillation.trainers.pairs import Pairs
from distillation.trainers.teacher import Teacher
from distillation.training import checkpoint, networks
from distillation.training.errors import RecipeRefused
from generation.engine.latents import as_uint8
from tests.distillation.trainers import few_step_toys as toys

torch.set_num_threads(1)

TOY = DecoderRecipe(
    channels=16, blocks=(1, 0, 0, 0), steps=150, batch=4, learning_rate=5e-3, warmup=10, ema_decay=0.8, validated=3
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return toys.teacher()


@pytest.fixture(scope="module")
def pairs(teacher: Teacher) -> Pairs:
    return toys.pairs(teacher, prompts=3, seeds=4)


def inputs_of(teacher: Teacher, pairs: Pairs, folder: Path) -> StageInputs:
    return StageInputs(
        teacher=teacher,
        pairs=pairs,
        catalogue=toys.catalogue(),
        folder=folder,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def trained(
    teacher: Teacher, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AutoencoderTiny, Path]:
    folder = tmp_path_factory.mktemp("decoder")
    recipe = replace(TOY, steps=3, warmup=1)
    return decoders.train(recipe, inputs_of(teacher, pairs, folder)), folder


def weights(decoder: AutoencoderTiny) -> dict[str, torch.Tensor]:
    return decoder.decoder.state_dict()


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.slow
def test_the_decoder_approximates_the_pictures_of_the_vae_on_held_out_latents(
    teacher: Teacher, pairs: Pairs, tmp_path: Path
) -> None:
    decoder = decoders.train(TOY, inputs_of(teacher, pairs, tmp_path))
    held_out = pairs.latents[[0, 6, 11]]
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured == decoders.measure(decoder, teacher, held_out)
    images = torch.cat([teacher.decode(row[None].float()) for row in held_out])
    grey = images.mean((2, 3), keepdim=True).expand_as(images)
    best_even = 10 * torch.log10(4 / (images - grey).square().flatten(1).mean(1)).mean()
    assert measured["psnr"] > best_even + 1  # dB above the right even colour of each picture
    assert measured["pictures"] == 3
    assert measured["psnr_worst"] <= measured["psnr"]
    assert 0.2 < measured["sharpness"] < 1


@pytest.mark.slow
def test_a_decoder_that_ends_in_a_pixel_shuffle_learns_as_well(
    teacher: Teacher, pairs: Pairs, tmp_path: Path
) -> None:
    recipe = replace(TOY, blocks=(1, 0), shuffle=4)
    decoder = decoders.train(recipe, inputs_of(teacher, pairs, tmp_path))
    assert decoder.config.out_channels == 48
    measured = decoders.measure(decoder, teacher, pairs.latents)
    untrained = decoders.build(recipe, latent_channels=4)
    assert measured["psnr"] > decoders.measure(untrained, teacher, pairs.latents)["psnr"] + 3


def test_the_saved_decoder_is_the_average_and_frozen(
    trained, teacher: Teacher, pairs: Pairs
) -> None:
    decoder, folder = trained
    assert not decoder.training and not any(p.requires_grad for p in decoder.parameters())
    saved = networks.load(AutoencoderTiny, folder / "vae")
    assert_same(weights(saved), weights(decoder))
    stored = torch.load(folder / checkpoint.FILE)
    assert_same(weights(saved), stored["averages"]["decoder"])
    assert any(
        not torch.equal(value, stored["modules"]["decoder"][name])
        for name, value in weights(saved).items()
    )


def test_checkpoints_hold_the_decoder_alone(trained) -> None:
    _, folder = trained
    stored = torch.load(folder / checkpoint.FILE)
    for kind in ("modules", "averages"):
        assert {name.split(".")[0] for name in stored[kind]["decoder"]} == {"layers"}


def test_an_interrupted_training_ends_with_the_same_weights(
    teacher: Teacher, pairs: Pairs, tmp_path: Path
) -> None:
    recipe = replace(TOY, steps=2, warmup=0)
    toys.assert_resumes(lambda: DecoderTask(recipe, teacher=teacher, pairs=pairs), recipe, tmp_path)


def test_half_of_the_latents_have_noise(teacher: Teacher, pairs: Pairs) -> None:
    recipe = replace(TOY, latent_noise=0.5)
    task = DecoderTask(recipe, teacher=teacher, pairs=pairs)
    clean, noisy = task._latents.chunk(2)
    assert torch.equal(clean, pairs.latents.float())
    assert (noisy - clean).std().item() == pytest.approx(0.5, rel=0.1)
    without = DecoderTask(replace(TOY, latent_noise=0.0), teacher=teacher, pairs=pairs)
    assert len(without._latents) == len(pairs)


def test_measured_latents_are_not_trained_on(pairs: Pairs) -> None:
    held_out, left = decoders._split(TOY, pairs)
    assert held_out.tolist() == [0, 6, 11]
    assert not set(held_out.tolist()) & set(left.tolist()) and len(left) == 9
    _, fewer = decoders._split(replace(TOY, pictures=2), pairs)
    assert fewer.tolist() == [1, 10]  # evenly over those that are left


def test_a_black_decoder_is_measured_as_black(teacher: Teacher, pairs: Pairs) -> None:
    decoder = decoders.build(TOY, latent_channels=4)
    for parameter in decoder.decoder.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    measured = decoders.measure(decoder, teacher, pairs.latents)
    pixels = torch.cat(
        [as_uint8(teacher.decode(row[None].float())) for row in pairs.latents]
    ).double()
    expected = 10 * torch.log10(255**2 / pixels.square().flatten(1).mean(1))
    assert measured["psnr"] == pytest.approx(expected.mean().item(), abs=0.01)
    assert measured["psnr_worst"] == pytest.approx(expected.min().item(), abs=0.01)
    assert measured["sharpness"] == 0


def test_the_shape_of_taesd_has_its_parameters_and_almost_no_encoder() -> None:
    network = decoders.build(DecoderRecipe(channels=64, blocks=(3, 3, 3, 1)), latent_channels=4)
    assert sum(p.numel() for p in network.decoder.parameters()) == 1_222_531
    assert sum(p.numel() for p in network.encoder.parameters()) < 100


@pytest.mark.parametrize(
    "name, value",
    [
        ("channels", 0),
        ("blocks", ()),
        ("blocks", (1, -1)),
        ("shuffle", 0),
        ("steps", 0),
        ("batch", 0),
        ("warmup", 10_000),
        ("learning_rate", 0.0),
        ("clipped_norm", 0.0),
        ("huber_c", float("nan")),
        ("ema_decay", 1.0),
        ("pictures", 0),
        ("latent_noise", -0.1),
        ("detail_weight", -1.0),
        ("weight_decay", -1.0),
        ("scales", 0),
        ("validated", 0),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        replace(TOY, **{name: value})


def test_other_sizes_than_the_vaes_and_too_few_pairs_are_refused(
    teacher: Teacher, pairs: Pairs, tmp_path: Path
) -> None:
    with pytest.raises(
        RecipeRefused, match=r"decoder\.shuffle 1: .* has 8 pixels .* this decoder 4"
    ):
        DecoderTask(replace(TOY, blocks=(1, 0, 0)), teacher=teacher, pairs=pairs)
    with pytest.raises(RecipeRefused, match=r"decoder\.validated \(12\)"):
        decoders.train(replace(TOY, validated=12), inputs_of(teacher, pairs, tmp_path))
    with pytest.raises(RecipeRefused, match=r"decoder\.scales"):
        DecoderTask(replace(TOY, scales=7), teacher=teacher, pairs=pairs)

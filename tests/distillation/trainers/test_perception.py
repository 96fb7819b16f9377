"""The perceptual loss: frozen feature maps of the picture, with a gradient into the latents."""

import copy

import pytest
import torch

from distillation.trainers import perception
from distillation.trainers.perception import FEATURES, PerceptionRecipe, tapped
from distillation.training.errors import RecipeRefused
from tests.distillation.trainers import few_step_toys as toys


@pytest.fixture(scope="module")
def teacher():
    return toys.teacher()


def latents(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def make_loss(teacher, features: str, **options):
    recipe = PerceptionRecipe(features=features, **options)
    return perception.make(recipe, teacher=teacher, decoder=toys.decoder())


@pytest.mark.parametrize("features", FEATURES)
def test_the_loss_is_zero_for_equal_latents_and_grows_with_the_difference(teacher, features):
    found = make_loss(teacher, features, huber_weight=0.0)
    target = latents(0)
    small, large = (found.regression(target + s * latents(1), target) for s in (0.1, 1.0))
    assert found.regression(target, target).item() == 0
    assert 0 < small < large


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.slow
def test_descent_brings_the_picture_to_the_target(teacher, features):
    found = make_loss(teacher, features, huber_weight=0.0)
    target, output = latents(0), latents(1).requires_grad_()
    decoder = toys.decoder()
    distances = []
    optimizer = torch.optim.Adam([output], lr=0.1)
    for _ in range(60):
        with torch.no_grad():
            pictures = [decoder.decode(part).sample for part in (output, target)]
        distances.append((pictures[0] - pictures[1]).square().mean().item())
        optimizer.zero_grad()
        found.regression(output, target).backward()
        optimizer.step()
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize("features", FEATURES)
def test_the_networks_of_the_loss_stay_frozen(teacher, features):
    decoder = toys.decoder()
    found = perception.make(PerceptionRecipe(features=features), teacher=teacher, decoder=decoder)
    output = latents(1).requires_grad_()
    found.regression(output, latents(0)).backward()
    assert output.grad.abs().sum() > 0
    frozen = [*decoder.parameters(), *teacher.vae.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in frozen)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_only_the_first_resolutions_of_the_decoder_are_computed(teacher, levels):
    decoder = toys.decoder()
    recipe = PerceptionRecipe(levels=levels)
    found = perception.make(recipe, teacher=teacher, decoder=decoder)
    sizes = []
    for layer in decoder.decoder.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[2]))
    maps = found.features(found.decoder(latents(0)))
    expected = [(8, 8, 8), (8, 16, 16), (8, 32, 32)][:levels]
    assert [tuple(part.shape[1:]) for part in maps] == expected
    assert max(sizes) == expected[-1][-1]  # the expensive part is not computed


def test_the_map_before_a_pixel_shuffle_counts_as_a_resolution(teacher):
    decoder = toys.decoder(levels=2, shuffle=4)
    found = perception.make(PerceptionRecipe(levels=2), teacher=teacher, decoder=decoder)
    maps = found.features(found.decoder(latents(0)))
    assert [tuple(part.shape[1:]) for part in maps] == [(8, 8, 8), (8, 16, 16)]


@pytest.mark.parametrize("features", FEATURES)
def test_more_levels_than_the_network_has_are_refused(teacher, features):
    with pytest.raises(RecipeRefused, match=r"levels \(5\)"):
        make_loss(teacher, features, levels=5)


def test_the_features_of_the_vae_are_of_the_tiny_decoders_pictures(teacher):
    found = make_loss(teacher, "vae", levels=4)
    pictures = found.decoder(latents(0))
    assert pictures.shape == (2, 3, 64, 64)
    with tapped(teacher.vae.encoder, ["down_blocks.3"]) as maps:
        teacher.vae.encode(pictures)
    assert found.features(pictures)[-1].equal(maps["down_blocks.3"])


def test_pseudo_huber_counts_as_the_recipe_says(teacher):
    target, output = latents(0), latents(1)
    without, half, whole = (
        make_loss(teacher, "decoder", huber_weight=w).regression(output, target)
        for w in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(whole - without, 2 * (half - without))
    assert (whole - without).item() == pytest.approx(
        (output - target).abs().mean().item(), rel=0.01
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"features": "detector"}, "features"),
        ({"levels": 0}, "levels"),
        ({"huber_weight": -1.0}, "huber_weight"),
        ({"huber_c": 0.0}, "huber_c"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(change, field):
    with pytest.raises(ValueError, match=f"^{field} "):
        PerceptionRecipe(**change)


# --- tapped ---------------------------------------------------------------------------------------
def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


def test_taps_are_removed_after_the_block_even_after_an_error():
    layers = network()
    with tapped(layers, ["0", "1"]) as maps:
        output = layers(torch.ones(1, 2))
    assert maps["1"].equal(maps["0"].relu())
    assert layers[2](maps["1"]).equal(output)
    with pytest.raises(RuntimeError, match="own"), tapped(layers, ["0"]):
        raise RuntimeError("own")
    with pytest.raises(AttributeError), tapped(layers, ["0", "9"]):
        pass
    assert not any(module._forward_hooks for module in layers.modules())


def test_a_pass_cut_short_ends_with_the_last_tap():
    layers = network()
    reached = []
    layers[2].register_forward_hook(lambda *_: reached.append(True))
    with tapped(layers, ["0", "1"], is_cut_short=True) as maps:
        layers(torch.ones(1, 2))
        raise AssertionError("not reached")
    assert set(maps) == {"0", "1"}
    assert not reached


def test_outputs_are_in_the_order_of_the_pass_and_of_the_chosen_samples(teacher):
    inputs = latents(0, count=5), torch.full((5,), 499), toys.catalogue(5).prompt_embeds.float()
    names = ["up_blocks.1", "mid_block", "down_blocks.0", "down_blocks.1.attentions.0"]
    chosen = torch.tensor([4, 1])
    with (
        tapped(teacher.unet, names) as outputs,
        tapped(teacher.unet, names, samples=chosen) as some,
    ):
        teacher.predict(*inputs, guidance_scale=1)
    assert list(outputs) == [
        "down_blocks.0",
        "down_blocks.1.attentions.0",
        "mid_block",
        "up_blocks.1",
    ]
    for name in names:
        assert torch.equal(outputs[name][chosen], some[name])


def test_taps_record_nothing_after_the_block():
    layers = network()
    with tapped(layers, ["0"]) as outputs:
        layers(torch.ones(1, 2))
    seen = outputs["0"]
    for one in (layers, copy.deepcopy(layers)):
        one(torch.ones(1, 2))
    assert outputs["0"] is seen

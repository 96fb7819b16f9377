import pytest
import torch

from distillation.losses.predictions import TYPES, converted, min_snr_weights

ALPHA = torch.tensor([0.9, 0.5, 0.0683], dtype=torch.float64)
SIGMA = (1 - ALPHA**2).sqrt()


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def all_types(alpha: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """The noised latents, and what a perfect network of each type predicts for them."""
    x_0, noise = drawn(len(alpha), 2, 4, 4), drawn(len(alpha), 2, 4, 4, seed=1)
    a, s = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    return a * x_0 + s * noise, {
        "epsilon": noise,
        "v_prediction": a * noise - s * x_0,
        "sample": x_0,
    }


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_every_prediction_is_converted_into_every_other(source, target):
    latents, exact = all_types(ALPHA, SIGMA)
    found = converted(
        exact[source], latents, alpha=ALPHA, sigma=SIGMA, source=source, target=target
    )
    assert torch.allclose(found, exact[target], atol=1e-12)


@pytest.mark.parametrize("target", TYPES)
def test_velocity_determines_all_predictions_at_zero_terminal_snr(target):
    alpha, sigma = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    latents, exact = all_types(alpha, sigma)
    found = converted(
        exact["v_prediction"],
        latents,
        alpha=alpha,
        sigma=sigma,
        source="v_prediction",
        target=target,
    )
    assert torch.allclose(found, exact[target], atol=1e-12)


def test_single_precision_loses_digits_that_the_conversion_keeps():
    """At σ ÷ α = 14.6; only the rounding of the inputs themselves is left."""
    alpha, sigma = ALPHA[2:], SIGMA[2:]
    latents, exact = all_types(alpha, sigma)
    x_t, noise = latents.float(), exact["epsilon"].float()
    found = converted(noise, x_t, alpha=alpha, sigma=sigma, source="epsilon", target="sample")
    reference = (x_t.double() - sigma * noise.double()) / alpha
    plain = (x_t - sigma.float() * noise) / alpha.float()
    assert found.dtype == torch.float32
    error, plain_error = ((other.double() - reference).abs().max() for other in (found, plain))
    assert float(error) < 0.2 * float(plain_error)


def test_half_precision_is_converted_to_single():
    latents, exact = all_types(ALPHA, SIGMA)
    for target in ("sample", "epsilon"):
        found = converted(
            exact["epsilon"].bfloat16(),
            latents.bfloat16(),
            alpha=ALPHA,
            sigma=SIGMA,
            source="epsilon",
            target=target,
        )
        assert found.dtype == torch.float32


@pytest.mark.parametrize("source", TYPES)
def test_the_conversion_is_differentiable(source):
    latents, exact = all_types(ALPHA, SIGMA)
    target = "sample" if source != "sample" else "v_prediction"
    assert torch.autograd.gradcheck(
        lambda p, x: converted(p, x, alpha=ALPHA, sigma=SIGMA, source=source, target=target),
        (exact[source][:, :1, :2, :2].requires_grad_(), latents[:, :1, :2, :2].requires_grad_()),
    )


def test_min_snr_weighs_the_same_error_of_x0_whatever_is_predicted():
    latents, exact = all_types(ALPHA, SIGMA)
    wrong = exact["sample"] + drawn(3, 2, 4, 4, seed=2)
    snr = (ALPHA / SIGMA) ** 2
    expected = snr.clamp(max=5) * (wrong - exact["sample"]).square().flatten(1).mean(1)
    for kind in TYPES:
        prediction = converted(
            wrong, latents, alpha=ALPHA, sigma=SIGMA, source="sample", target=kind
        )
        error = (prediction - exact[kind]).square().flatten(1).mean(1)
        weights = min_snr_weights(ALPHA, SIGMA, prediction_type=kind)
        assert torch.allclose(weights * error, expected, rtol=1e-9)


def test_min_snr_caps_clean_steps_and_has_its_limits_at_both_ends():
    alpha = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sigma = torch.tensor([0.0, 1.0], dtype=torch.float64)
    weights = {
        kind: min_snr_weights(alpha, sigma, prediction_type=kind, gamma=5.0).tolist()
        for kind in TYPES
    }
    assert weights == {"epsilon": [0, 1], "v_prediction": [0, 0], "sample": [5, 0]}


def test_a_conversion_that_a_prediction_does_not_determine_is_refused():
    latents, exact = all_types(ALPHA, SIGMA)
    ends = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    for target in ("sample", "v_prediction"):
        with pytest.raises(ValueError, match=f"not determine {target}"):
            converted(
                exact["epsilon"],
                latents,
                alpha=ends,
                sigma=1 - ends,
                source="epsilon",
                target=target,
            )
    with pytest.raises(ValueError, match="not determine epsilon"):
        converted(
            exact["sample"], latents, alpha=ends, sigma=1 - ends, source="sample", target="epsilon"
        )


def test_other_contradictions_are_refused():
    latents, exact = all_types(ALPHA, SIGMA)
    good = {"alpha": ALPHA, "sigma": SIGMA, "source": "epsilon", "target": "sample"}
    for changed, named in (
        ({"source": "flow"}, "'flow' is not a prediction type"),
        ({"sigma": SIGMA * 0.9}, "alpha² \\+ sigma² must be 1"),
        ({"sigma": -SIGMA}, "must not be negative"),
        ({"alpha": ALPHA[:2]}, r"must be \[3\]"),
    ):
        with pytest.raises(ValueError, match=named):
            converted(exact["epsilon"], latents, **(good | changed))
    with pytest.raises(ValueError, match="does not fit latents"):
        converted(exact["epsilon"][:2], latents, **good)
    with pytest.raises(ValueError, match="gamma"):
        min_snr_weights(ALPHA, SIGMA, prediction_type="epsilon", gamma=0.0)
    with pytest.raises(ValueError, match="prediction type"):
        min_snr_weights(ALPHA, SIGMA, prediction_type="eps")

import pytest
import torch

from distillation.detector import calibration


def draw(temperature: float, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose probabilities are right once divided by `temperature`, and bits drawn by those."""
    generator = torch.Generator().manual_seed(0)
    calibrated = torch.randn(count, 2, generator=generator) * 2
    bits = torch.rand(count, 2, generator=generator) < torch.sigmoid(calibrated)
    return calibrated * temperature, bits


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(temperature: float) -> None:
    found = calibration.fit_temperatures(*draw(temperature))
    assert found == pytest.approx([temperature] * 2, rel=0.1)


def test_the_temperature_minimises_the_cross_entropy() -> None:
    logits, bits = draw(3.0)
    best = calibration.fit_temperatures(logits, bits)

    def loss(temperatures: torch.Tensor) -> float:
        return float(
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits / temperatures, bits.float()
            )
        )

    assert loss(best) < loss(best * 1.1)
    assert loss(best) < loss(best / 1.1)


def test_a_perfect_bit_does_not_become_certain() -> None:
    bits = torch.tensor([[True], [False]] * 20)
    logits = torch.where(bits, 3.0, -3.0)
    confidence = torch.sigmoid(logits[0] / calibration.fit_temperatures(logits, bits))
    assert float(confidence) == pytest.approx(21 / 22, abs=1e-3)  # Platt's target for 20 of 20


def test_calibration_lowers_the_calibration_error() -> None:
    logits, bits = draw(3.0)
    fitted = torch.sigmoid(logits / calibration.fit_temperatures(logits, bits))
    before = calibration.expected_calibration_error(torch.sigmoid(logits), bits)
    after = calibration.expected_calibration_error(fitted, bits)
    assert after < 0.02 < 0.1 < before


def test_the_calibration_error_of_known_numbers_is_right() -> None:
    probabilities = torch.tensor([[0.9], [0.9], [0.9], [0.9], [0.1], [0.1]])
    bits = torch.tensor([[1], [1], [1], [0], [0], [0]])
    # |0.9 − 0.75| · 4/6 + |0.1 − 0| · 2/6
    expected = 0.15 * 4 / 6 + 0.1 * 2 / 6
    assert calibration.expected_calibration_error(probabilities, bits, bins=10) == pytest.approx(
        expected
    )


def test_the_threshold_lies_in_the_gap_where_there_is_one() -> None:
    probabilities = torch.tensor([[0.01], [0.02], [0.03], [0.2], [0.3]])
    bits = torch.tensor([[0], [0], [0], [1], [1]])
    threshold = float(calibration.fit_thresholds(probabilities, bits))
    assert 0.03 < threshold < 0.2  # a half would lose both


def balanced_accuracies(present: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    hits = (present & bits).sum(0) / bits.sum(0)
    rejections = (~present & ~bits).sum(0) / (~bits).sum(0)
    return (hits + rejections) / 2


def test_the_threshold_has_the_best_balanced_accuracy_of_all() -> None:
    logits, bits = draw(1.0, count=300)
    bits &= logits > -1  # fewer positives than negatives
    p = torch.sigmoid(logits)
    thresholds = calibration.fit_thresholds(p, bits)
    reached = balanced_accuracies(p >= thresholds, bits)
    for value in torch.linspace(0.01, 0.99, 99):
        other = balanced_accuracies(p >= value, bits)
        assert (reached >= other - 1e-6).all()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_the_thresholds_use_the_false_accept_rate_and_never_exceed_it(rate: float) -> None:
    logits, bits = draw(1.0, count=1000)
    p = torch.sigmoid(logits)
    thresholds = calibration.thresholds_at_false_accepts(p, bits, rate=rate)
    for column in range(2):
        negatives = p[:, column][~bits[:, column]]
        accepted = float((negatives >= thresholds[column]).float().mean())
        assert accepted <= rate
        assert accepted > rate - 3 / len(negatives)


def test_a_bit_that_never_changes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Bits \[1\] are the same"):
        calibration.fit_temperatures(torch.zeros(3, 2), torch.tensor([[0, 1], [1, 1], [0, 1]]))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        calibration.fit_thresholds(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="false-accept rate"):
        calibration.thresholds_at_false_accepts(torch.zeros(2, 1), torch.tensor([[0], [1]]), rate=1)

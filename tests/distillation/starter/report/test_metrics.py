from types import SimpleNamespace

import pytest
import torch

from distillation.starter.report import metrics
from distillation.starter.words import ATTRIBUTES, BITS, COMBINATIONS, Combination

RED_VASE = Combination("vase", "red", "clay", "table")
BLUE_MUG = Combination("mug", "blue", "metal", "slab")


def stub_detector(*rows: dict[str, float]) -> SimpleNamespace:
    """Return a detector with the given probabilities of words per image (others: 0.1) and thresholds of ½."""
    probabilities = torch.tensor([[row.get(word, 0.1) for word in BITS] for row in rows])
    return SimpleNamespace(
        config=SimpleNamespace(image_size=8),
        probabilities=lambda images: probabilities,
        thresholds=torch.full((len(BITS),), 0.5),
    )


def predicted(combination: Combination, **others: float) -> dict[str, float]:
    """Return probabilities of 0.9 for the words of the combination, and those of other words."""
    words = (combination.object, combination.colour, combination.material, combination.ground)
    return dict.fromkeys(words, 0.9) | others


def judge(*rows: dict[str, float], asked: tuple[Combination, ...]) -> metrics.BitVerdict:
    return metrics.by_detector(stub_detector(*rows), torch.empty(len(rows), 3, 8, 8), asked)


def test_all_four_requires_the_most_likely_word_and_strict_every_bit():
    rows = (
        predicted(RED_VASE),
        predicted(RED_VASE, glass=0.6),  # clay is more likely
        predicted(RED_VASE, clay=0.4),  # most likely, but below the threshold
        predicted(RED_VASE, glass=0.95),
    )
    verdict = judge(*rows, asked=(RED_VASE,) * 4)
    assert verdict.right.tolist() == [True, True, True, False]
    assert (verdict.all_four.count, verdict.strict.count) == (3, 1)
    assert {a: s.count for a, s in verdict.per_attribute.items()} == {
        "object": 4,
        "colour": 4,
        "material": 3,
        "ground": 4,
    }
    assert verdict.bits_right == pytest.approx(1 - 3 / (4 * 23))


def test_balanced_accuracy_is_the_mean_of_sensitivity_and_specificity():
    rows = (
        predicted(RED_VASE),
        predicted(RED_VASE, red=0.2),
        predicted(BLUE_MUG),
        predicted(BLUE_MUG),
    )
    accuracies = judge(*rows, asked=(RED_VASE, RED_VASE, BLUE_MUG, BLUE_MUG)).balanced_accuracy
    assert accuracies["red"] == pytest.approx((1 / 2 + 1) / 2)
    assert accuracies["blue"] == 1
    assert accuracies["green"] is None  # never requested


def test_the_most_frequent_confusions_come_first():
    rows = (predicted(RED_VASE), predicted(RED_VASE, bowl=0.95), predicted(BLUE_MUG, bottle=0.95))
    verdict = judge(*rows, asked=(RED_VASE, RED_VASE, BLUE_MUG))
    found = metrics.worst_confusions(verdict, "object")
    assert [(c.asked, c.judged, c.share.count, c.share.total) for c in found] == [
        ("mug", "bottle", 1, 1),
        ("vase", "bowl", 1, 2),
    ]
    assert metrics.worst_confusions(verdict, "colour") == []


def test_the_rows_of_a_confusion_matrix_are_the_requested_words():
    verdict = judge(predicted(BLUE_MUG, bottle=0.95), asked=(BLUE_MUG,))
    words = ATTRIBUTES["object"]
    matrix = metrics.confusion_matrix(verdict, "object")
    assert matrix.nonzero().tolist() == [[words.index("mug"), words.index("bottle")]]


def test_the_zero_shot_verdict_compares_the_word_of_each_attribute():
    words = metrics.asked_words(COMBINATIONS[:5])
    guess = {attribute: words[:, column] for column, attribute in enumerate(ATTRIBUTES)}
    guess["ground"] = 1 - guess["ground"].clamp(max=1)
    verdict = metrics.by_zero_shot(lambda images: guess, torch.empty(5), COMBINATIONS[:5])
    assert verdict.per_attribute["object"].count == 5
    assert verdict.per_attribute["ground"].count < 5

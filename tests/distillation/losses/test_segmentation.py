import math

import pytest
import torch

from distillation.losses.segmentation import (
    border_weights,
    class_balance,
    distances,
    pixel_cross_entropy,
    weight_map,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearest(mask: torch.Tensor) -> torch.Tensor:
    """Return the distance of every pixel to the mask, by brute force."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij"), -1).float()
    gaps = torch.cdist(
        places.reshape(-1, 2), places[mask], compute_mode="donot_use_mm_for_euclid_dist"
    )
    return gaps.amin(1).view(mask.shape)


def three_objects() -> torch.Tensor:
    """1 and 2 are two pixels of ground apart, 3 is far away."""
    objects = torch.zeros(1, 24, 24, dtype=torch.int64)
    objects[0, 2:8, 2:6] = 1
    objects[0, 2:8, 8:12] = 2
    objects[0, 18:22, 16:20] = 7
    return objects


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_exact(seed):
    mask = torch.rand(9, 14, generator=torch.Generator().manual_seed(seed)) < 0.06
    mask[3, 5] = True
    assert torch.allclose(distances(mask), nearest(mask), atol=1e-5)


def test_the_distance_to_an_empty_mask_is_infinite():
    assert distances(torch.zeros(3, 4, dtype=torch.bool)).isinf().all()


def test_border_weights_follow_their_equation():
    objects = three_objects()
    gaps = torch.stack([nearest(objects[0] == number) for number in (1, 2, 7)]).sort(0).values
    expected = 10 * torch.exp(-((gaps[0] + gaps[1]) ** 2) / (2 * 5.0**2))
    expected[objects[0] > 0] = 0
    found = border_weights(objects, border_weight=10.0, sigma=5.0)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_the_weight_is_highest_between_two_close_objects():
    weights = border_weights(three_objects(), border_weight=10.0, sigma=5.0)[0]
    highest = (weights == weights.max()).nonzero().tolist()
    assert highest == [[row, column] for row in range(2, 8) for column in (6, 7)]
    assert weights[5, 6] == pytest.approx(10 * math.exp(-(3**2) / 50))  # 1 and 2 pixels away
    assert weights[20, 20] < 0.1  # beside an object that has no neighbour
    assert weights[20, 3] < 0.01


def test_a_lone_object_and_an_empty_image_have_no_border_weights():
    objects = three_objects().repeat(3, 1, 1)
    objects[1][objects[1] != 7] = 0
    objects[2] = 0
    weights = border_weights(objects, border_weight=10.0, sigma=5.0)
    assert weights[0].any() and not weights[1].any() and not weights[2].any()


def test_border_weights_do_not_depend_on_the_numbers_of_objects():
    objects = three_objects()
    renamed = torch.tensor([0, 40, 3, 0, 0, 0, 0, 5])[objects]
    assert torch.equal(
        border_weights(renamed, border_weight=10.0, sigma=5.0),
        border_weights(objects, border_weight=10.0, sigma=5.0),
    )


def test_every_class_weighs_the_same_in_total():
    classes = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1]]])
    balance = class_balance(classes)
    assert balance.tolist() == pytest.approx([8 / 12, 8 / 4])
    weights = balance[classes]
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[classes == 0].sum()) == pytest.approx(float(weights[classes == 1].sum()))
    assert class_balance(torch.zeros_like(classes)).tolist() == [1, 0]


def test_the_map_is_the_balance_plus_the_border():
    objects = three_objects()
    classes = (objects > 0).long()
    balance = torch.tensor([0.5, 2.0])
    weights = weight_map(classes, objects, class_weights=balance, border_weight=10.0, sigma=5.0)
    border = border_weights(objects, border_weight=10.0, sigma=5.0)
    assert torch.equal(weights, balance[classes] + border)
    assert weights[0, 4, 4] == 2.0 and weights[0, 5, 6] > 5


def test_the_loss_is_the_weighted_mean_of_the_pixels():
    logits, classes = drawn(2, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]], [[1, 1], [0, 2]]])
    weights = drawn(2, 2, 2, seed=1).square()
    expected = 0.0
    for b in range(2):
        for y in range(2):
            for x in range(2):
                p = logits[b, :, y, x].softmax(0)[classes[b, y, x]]
                expected -= float(weights[b, y, x] * p.log()) / 8
    assert float(pixel_cross_entropy(logits, classes, weights=weights)) == pytest.approx(expected)
    ones = pixel_cross_entropy(logits, classes, weights=torch.ones(2, 2, 2))
    assert float(pixel_cross_entropy(logits, classes)) == pytest.approx(float(ones))


def test_pixels_of_the_border_have_larger_gradients():
    objects = three_objects()
    classes = (objects > 0).long()
    weights = weight_map(
        classes, objects, class_weights=torch.ones(2), border_weight=10.0, sigma=5.0
    )
    logits = torch.zeros(1, 2, 24, 24, requires_grad=True)
    pixel_cross_entropy(logits, classes, weights=weights).backward()
    gradients = logits.grad.abs().sum(1)
    assert torch.allclose(gradients / gradients[0, 20, 3], weights / weights[0, 20, 3])


def test_the_derivative_is_right():
    classes, weights = torch.tensor([[[0, 1], [1, 0]]]), drawn(1, 2, 2, seed=1).square()
    assert torch.autograd.gradcheck(
        lambda z: pixel_cross_entropy(z, classes, weights=weights),
        (drawn(1, 2, 2, 2).requires_grad_(),),
    )


def test_contradictions_are_refused():
    objects = three_objects()
    classes = (objects > 0).long()
    good = {"class_weights": torch.ones(2), "border_weight": 10.0, "sigma": 5.0}
    with pytest.raises(ValueError, match="differ in shape"):
        weight_map(classes[:, :5], objects, **good)
    with pytest.raises(ValueError, match=r"in 0 … 0"):
        weight_map(classes, objects, **(good | {"class_weights": torch.ones(1)}))
    for named in ({"sigma": 0.0}, {"border_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(named))):
            weight_map(classes, objects, **(good | named))
    with pytest.raises(ValueError, match="whole numbers"):
        border_weights(objects.float(), border_weight=10.0, sigma=5.0)
    with pytest.raises(ValueError, match="negative number"):
        border_weights(objects - 1, border_weight=10.0, sigma=5.0)
    with pytest.raises(ValueError, match="mask is bool"):
        distances(objects[0])
    with pytest.raises(ValueError, match="0 or 1"):
        class_balance(2 * classes)
    with pytest.raises(ValueError, match="come with classes"):
        pixel_cross_entropy(drawn(1, 2, 4, 4), classes)
    with pytest.raises(ValueError, match="weights must be"):
        pixel_cross_entropy(drawn(1, 2, 24, 24), classes, weights=torch.ones(24, 24))
    with pytest.raises(ValueError, match="finite and not negative"):
        pixel_cross_entropy(drawn(1, 2, 24, 24), classes, weights=-torch.ones(1, 24, 24))

import pytest
import torch
from torch.nn import functional

from distillation.losses.mmd import (
    depth_weights,
    gaussian,
    layers_mmd2,
    linear,
    mmd2,
    polynomial,
)

KERNELS = [linear, polynomial, gaussian]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student: torch.Tensor, teacher: torch.Tensor, kernel) -> float:
    """The equation of the paper for one image each, term by term."""
    s, t = (functional.normalize(maps[0].flatten(1), dim=1) for maps in (student, teacher))

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(kernel(x, y)) for x in a for y in b) / (len(a) * len(b))

    return mean(t, t) + mean(s, s) - 2 * mean(t, s)


def test_the_linear_kernel_is_the_equation_of_the_paper():
    student, teacher = drawn(1, 3, 2, 2), drawn(1, 5, 2, 2, seed=1)
    expected = by_hand(student, teacher, lambda x, y: x @ y)
    assert float(mmd2(student, teacher, kernel=linear)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [2, 5])  # 4 and 25 positions, less and more than 8 channels
def test_the_polynomial_kernel_is_the_equation_of_the_paper(side):
    student, teacher = drawn(1, 3, side, side), drawn(1, 5, side, side, seed=1)
    expected = by_hand(student, teacher, lambda x, y: (x @ y) ** 2)
    found = mmd2(student, teacher, kernel=polynomial)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_both_fast_ways_of_degree_two_equal_the_brute_force():
    weights = torch.tensor([0.5, 0.5, -0.2, -0.8, 0.3], dtype=torch.float64)
    for length in (3, 50):  # the way through positions, the way through channels
        samples = drawn(2, 5, length).requires_grad_()
        expected = torch.stack(
            [
                sum(
                    weights[i] * weights[j] * (image[i] @ image[j]) ** 2
                    for i in range(5)
                    for j in range(5)
                )
                for image in samples
            ]
        )
        found = polynomial(samples, weights)
        assert torch.allclose(found, expected)
        gradients = [torch.autograd.grad(part.sum(), samples)[0] for part in (found, expected)]
        assert torch.allclose(*gradients)


def test_degree_two_never_holds_the_larger_matrix():
    """Of 4 positions and 3000 channels the matrix of channels would hold 9 million values per image."""
    samples = drawn(1, 3000, 4)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            nonlocal largest
            result = operation(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        polynomial(samples, torch.full((3000,), 1 / 3000, dtype=torch.float64))
    assert 0 < largest <= samples.numel()


def test_degree_two_compares_gram_matrices():
    student, teacher = drawn(1, 3, 2, 2), drawn(1, 5, 2, 2, seed=1)
    grams = []
    for maps in (student, teacher):
        channels = functional.normalize(maps[0].flatten(1), dim=1)
        grams.append(channels.T @ channels / len(channels))
    expected = float((grams[0] - grams[1]).square().sum())
    assert float(mmd2(student, teacher, kernel=polynomial)) == pytest.approx(expected, rel=1e-4)


def test_the_gaussian_kernel_takes_its_width_from_both_sets():
    student, teacher = drawn(1, 4, 2, 2), drawn(1, 4, 2, 2, seed=1)
    channels = torch.cat([functional.normalize(m[0].flatten(1), dim=1) for m in (student, teacher)])
    width = float(torch.cdist(channels, channels).square().mean())
    expected = by_hand(
        student, teacher, lambda x, y: torch.exp(-(x - y).square().sum() / (2 * width))
    )
    found = mmd2(student, teacher, kernel=gaussian)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_order_and_the_scale_of_channels_do_not_matter(kernel):
    student, teacher = drawn(2, 4, 4, 4), drawn(2, 6, 4, 4, seed=1)
    plain = float(mmd2(student, teacher, kernel=kernel))
    assert plain > 1e-4
    scale = torch.tensor([2.0, 1.0, 30.0, 7.0]).view(1, -1, 1, 1)
    changed = (student * scale)[:, [2, 0, 3, 1]], teacher[:, [5, 1, 0, 3, 2, 4]]
    assert float(mmd2(*changed, kernel=kernel)) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_number_of_channels_does_not_matter(kernel):
    student, teacher = drawn(2, 4, 4, 4), drawn(2, 6, 4, 4, seed=1)
    plain = float(mmd2(student, teacher, kernel=kernel))
    doubled = mmd2(student.repeat(1, 3, 1, 1), teacher, kernel=kernel)
    assert float(doubled) == pytest.approx(plain, rel=1e-9)
    itself = mmd2(teacher.repeat(1, 2, 1, 1), teacher, kernel=kernel)
    assert float(itself) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_descent_brings_the_student_to_the_teacher(kernel):
    teacher = drawn(1, 3, 2, 2, seed=1)
    student = drawn(1, 2, 2, 2).requires_grad_()
    before = mmd2(student, teacher, kernel=kernel).item()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss = mmd2(student, teacher, kernel=kernel)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * before


def test_the_larger_map_is_pooled():
    coarse, fine = drawn(2, 3, 2, 2), drawn(2, 4, 4, 6, seed=1)
    pooled = functional.adaptive_avg_pool2d(fine, 2)
    for pair, same in (((coarse, fine), (coarse, pooled)), ((fine, coarse), (pooled, coarse))):
        found, expected = (mmd2(*maps, kernel=polynomial) for maps in (pair, same))
        assert float(found) == pytest.approx(float(expected))


def test_the_batch_is_averaged_image_by_image():
    student, teacher = drawn(3, 4, 2, 2), drawn(3, 6, 2, 2, seed=1)
    for kernel in KERNELS:
        alone = [
            float(mmd2(student[i : i + 1], teacher[i : i + 1], kernel=kernel)) for i in range(3)
        ]
        assert float(mmd2(student, teacher, kernel=kernel)) == pytest.approx(sum(alone) / 3)


def test_layers_are_paired_by_depth_among_like_resolutions():
    layers = [(0.0, 16), (0.4, 8), (0.6, 4), (1.0, 16)]
    weights = depth_weights([(0.0, 16), (0.5, 4)], layers, reach=0.2)
    assert weights.shape == (2, 4)
    assert weights.sum(1).tolist() == pytest.approx([1, 1])
    assert weights[0, 2] == 0 and weights[1, 0] == weights[1, 3] == 0  # 16 is not near 4
    assert weights[0, 0] > weights[0, 1] > weights[0, 3] > 0
    assert float(weights[0, 1] / weights[0, 0]) == pytest.approx(torch.e**-2)
    assert float(weights[1, 1] / weights[1, 2]) == pytest.approx(1)


def test_all_pairs_are_summed_with_their_weights():
    students, teachers = [drawn(1, 2, 4, 4), drawn(1, 3, 2, 2)], [drawn(1, 5, 4, 4, seed=1)]
    weights = torch.tensor([[0.25], [2.0]])
    found = layers_mmd2(students, teachers, weights=weights, kernel=linear)
    parts = [float(mmd2(student, teachers[0], kernel=linear)) for student in students]
    assert float(found) == pytest.approx(0.25 * parts[0] + 2 * parts[1])


def test_a_pair_of_no_weight_is_not_computed():
    broken = torch.full((1, 2, 4, 4), torch.nan, dtype=torch.float64)
    students = [drawn(1, 2, 4, 4), broken]
    weights = torch.tensor([[1.0], [0.0]])
    assert layers_mmd2(students, [drawn(1, 3, 4, 4)], weights=weights, kernel=linear).isfinite()


def test_a_dead_channel_gives_finite_and_bounded_gradients():
    student, teacher = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1)
    student[:, 0] = 0
    for kernel in KERNELS:
        trained = student.clone().requires_grad_()
        mmd2(trained, teacher, kernel=kernel).backward()
        assert trained.grad.abs().max() < 1e3


@pytest.mark.parametrize("kernel", [linear, polynomial])
def test_the_derivative_is_right(kernel):
    teacher = drawn(1, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(
        lambda s: mmd2(s, teacher, kernel=kernel), (drawn(1, 2, 2, 2).requires_grad_(),)
    )


def test_the_derivative_of_the_gaussian_takes_the_width_as_constant():
    samples, weights = drawn(1, 4, 3), torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64)
    width = torch.cdist(samples, samples).square().mean()

    def fixed(values: torch.Tensor) -> torch.Tensor:
        gaps = (values[:, :, None] - values[:, None]).square().sum(3)
        return torch.einsum("bij,i,j->b", torch.exp(-gaps / (2 * width)), weights, weights)

    gradients = []
    for function in (fixed, lambda values: gaussian(values, weights)):
        point = samples.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(point).sum(), point)[0])
    assert torch.allclose(*gradients)


def test_the_teacher_gets_no_gradient():
    student, teacher = drawn(1, 2, 2, 2).requires_grad_(), drawn(1, 3, 2, 2).requires_grad_()
    mmd2(student, teacher, kernel=gaussian).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_autocast_does_not_reach_the_kernel():
    student, teacher = drawn(1, 4, 4, 4), drawn(1, 6, 4, 4, seed=1)
    exact = float(mmd2(student, teacher, kernel=polynomial))
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd2(student.float(), teacher.float(), kernel=polynomial)
    assert float(found) == pytest.approx(exact, rel=1e-5)


def test_contradictions_are_refused():
    maps = drawn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="one batch size"):
        mmd2(maps, maps[:1], kernel=linear)
    with pytest.raises(ValueError, match="one batch size"):
        mmd2(maps.flatten(2), maps, kernel=linear)
    with pytest.raises(ValueError, match="No layer of the teacher"):
        depth_weights([(0.5, 64)], [(0.5, 8)], reach=0.1)
    with pytest.raises(ValueError, match="reach"):
        depth_weights([(0.5, 8)], [(0.5, 8)], reach=0.0)
    with pytest.raises(ValueError, match="depth in"):
        depth_weights([(2, 8)], [(0.5, 8)], reach=0.1)
    with pytest.raises(ValueError, match="student has no layers"):
        depth_weights([], [(0.5, 8)], reach=0.1)
    with pytest.raises(ValueError, match="do not fit weights"):
        layers_mmd2([maps], [maps], weights=torch.ones(2, 1), kernel=linear)
    with pytest.raises(ValueError, match="not negative"):
        layers_mmd2([maps], [maps], weights=-torch.ones(1, 1), kernel=linear)
    with pytest.raises(ValueError, match="All weights are 0"):
        layers_mmd2([maps], [maps], weights=torch.zeros(1, 1), kernel=linear)

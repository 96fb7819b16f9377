"""m² ÷ σ² orders removals by their cost, and the student's prior is what is left of the teacher's posterior."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from distillation.students import channels, cuts, posterior, pruning, weights, widths
from distillation.students.errors import StudentRefused
from distillation.students.posterior import Posterior
from distillation.students.unets import UNetShape

from .toys import PUBLISHED, STARTER, loaded, output, sources, unet


def of_toy(shape: UNetShape, seed: int = 0) -> Posterior:
    tensors = unet(shape, seed=seed).state_dict()
    torch.manual_seed(seed)
    return Posterior(tensors, {name: torch.rand(t.shape) + 0.1 for name, t in tensors.items()})


def test_the_order_is_that_of_the_loss_and_not_of_the_size_of_weights():
    scales = torch.tensor([10.0, 0.1, 1.0, 3.0])  # of independent inputs
    truth = torch.tensor([0.2, 3.0, 1.0, 0.3])
    torch.manual_seed(0)
    rows = torch.randn(3000, 4) * scales
    targets = rows @ truth + torch.randn(3000)
    found = torch.linalg.lstsq(rows, targets[:, None]).solution[:, 0]

    def loss(w):
        return float(((rows @ w - targets) ** 2).mean() / 2)

    def gradients(index):
        w = found.clone().requires_grad_()
        value = (rows[index] @ w - targets[index]) ** 2 / 2
        return dict(zip("abcd", torch.autograd.grad(value, w)[0].split(1), strict=True))

    means = dict(zip("abcd", found.split(1), strict=True))
    information = posterior.fisher(gradients, range(3000))
    known = posterior.laplace(means, information, examples=3000, precision=0.0, limits=(1e-9, 1e3))
    scores = {name: float(ratios.sum()) for name, ratios in pruning.relevance(known).items()}
    without = {name: found * (torch.arange(4) != i) for i, name in enumerate("abcd")}
    costs = {name: loss(w) - loss(found) for name, w in without.items()}
    sizes = {name: float(mean.abs()) for name, mean in means.items()}
    assert sorted("abcd", key=scores.__getitem__) == sorted("abcd", key=costs.__getitem__)
    assert sorted("abcd", key=sizes.__getitem__) != sorted("abcd", key=costs.__getitem__)
    for name, cost in costs.items():  # m² ÷ σ² = 2 · N · (rise of the mean loss)
        assert scores[name] == pytest.approx(2 * 3000 * cost, rel=0.2)


def test_small_weights_in_half_precision_still_count():
    small = Posterior({"w": torch.tensor([1e-4]).half()}, {"w": torch.tensor([1e-4]).half()})
    assert pruning.relevance(small)["w"].item() == pytest.approx(1e-4, rel=0.01)


def test_a_channels_score_sums_over_all_weights_that_read_it():
    known = of_toy(STARTER)
    scores = pruning.channel_scores(known, channels.layout(STARTER))
    ratios = pruning.relevance(known)
    name = "down_blocks.0.resnets.0"
    assert torch.allclose(
        scores[f"{name}.hidden"].float(), ratios[f"{name}.conv2.weight"].sum((0, 2, 3))
    )
    last = "up_blocks.2.resnets.1"  # read by the layer after it alone, beside a skip
    following = "up_blocks.2.resnets.2"
    readers = (
        ratios[f"{following}.conv1.weight"][:, :8].sum((0, 2, 3)),
        ratios[f"{following}.conv_shortcut.weight"][:, :8].sum((0, 2, 3)),
    )
    assert torch.allclose(scores[last].float(), readers[0] + readers[1])


BLOCKS = {  # of the base cut of STARTER: the beginnings of its tensors, and what the cut without it has
    "mid_block": (("mid_block.",), {"is_mid_kept": False}),
    "1": (("down_blocks.1.att", "up_blocks.1.att"), {"without_attention": (0,)}),
    "2": (("down_blocks.2.att", "up_blocks.0.att"), {"without_attention": (1,)}),
}


def without(block: str, known: Posterior, factor: float) -> Posterior:
    """Multiply the variances of a block's weights."""
    begins = BLOCKS[block][0]
    changed = {
        name: variance * (factor if name.startswith(begins) else 1)
        for name, variance in known.variance.items()
    }
    return Posterior(known.mean, changed)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_with_the_largest_variance_is_removed(block):
    known = without(block, of_toy(STARTER), 1e4)
    cut = pruning.without_least(cuts.CUTS["base-least"], STARTER, known)
    assert cut == replace(cuts.CUTS["base"], name="base-least", **BLOCKS[block][1])


@pytest.mark.parametrize("block", BLOCKS)
def test_the_student_without_a_block_is_the_one_whose_last_projections_are_zero(block):
    begins, fields = BLOCKS[block]
    base = cuts.CUTS["base"]
    tensors = weights.copy(unet(STARTER).state_dict(), STARTER, cut=base)
    for name, tensor in tensors.items():
        if name.startswith(begins) and name.split(".")[-2] in pruning.LAST:
            tensor.zero_()
    shape = cuts.student_shape(STARTER, base)
    assert pruning.block_scores(Posterior(tensors, tensors_of_ones(tensors)), shape)[block] == 0
    cut = replace(base, **fields)
    left = weights.copy(unet(STARTER).state_dict(), STARTER, cut=cut)
    found = output(loaded(cuts.student_shape(STARTER, cut), left))
    assert torch.allclose(found, output(loaded(shape, tensors)), atol=1e-5)


def tensors_of_ones(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(tensor) for name, tensor in tensors.items()}


def test_the_last_block_that_attends_to_the_prompt_is_kept():
    with pytest.raises(StudentRefused, match="none of this teacher's can go"):
        pruning.without_least(cuts.CUTS["tiny-least"], STARTER, of_toy(STARTER))


@pytest.mark.parametrize("cut", [cuts.CUTS[name] for name in PUBLISHED], ids=PUBLISHED)
def test_the_prior_of_a_cut_is_the_posterior_of_the_weights_it_copies(cut):
    known = of_toy(STARTER)
    prior = pruning.prior_of_cut(known, STARTER, cut=cut, new_variance=7.0)
    copied = weights.copy(known.mean, STARTER, cut=cut)
    assert set(prior.mean) == set(cuts.student_shape(STARTER, cut).tensors)
    partly_new = []
    for name, source in sources(STARTER, cut).items():
        assert torch.equal(prior.mean[name], copied[name])
        if copied[name].shape != known.mean[source].shape:
            partly_new.append(name)
        else:
            assert torch.equal(prior.variance[name], known.variance[source])
    is_new = [bool((prior.variance[name] == 7.0).any()) for name in partly_new]
    assert is_new.count(True) == (2 if cut.name == "tiny" else 0)  # convolution and shortcut


def test_the_prior_of_a_narrower_student_is_the_posterior_of_its_channels():
    known = of_toy(STARTER)
    layout = channels.layout(STARTER)
    plan = widths.plan(
        STARTER,
        Fraction(1, 2),
        scores=pruning.channel_scores(known, layout),
        may_mix_norms=True,
    )
    prior = pruning.prior_of_widths(known, plan)
    inside = "down_blocks.0.resnets.0"
    rows, columns = plan.kept["conv_in"], plan.kept[f"{inside}.hidden"]
    for found, of_teacher in (
        (prior.mean, known.mean),
        (prior.variance, known.variance),
    ):
        name = f"{inside}.conv2.weight"
        assert torch.equal(found[name], of_teacher[name][rows][:, columns])
    assert output(loaded(plan.student, prior.mean)).isfinite().all()

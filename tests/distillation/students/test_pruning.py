"""m² ÷ σ² orders by what a removal costs, and the student's prior is what is left of the teacher's posterior."""

from fractions import Fraction

import pytest
import torch

from distillation.students import channels, cuts, posterior, pruning, weights, widths
from distillation.students.posterior import Posterior
from distillation.students.unets import UNetShape

from .toys import PUBLISHED, STARTER, loaded, output, unet


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
    scores = pruning.block_scores(known, {name: (name,) for name in "abcd"})
    without = {name: found * (torch.arange(4) != i) for i, name in enumerate("abcd")}
    costs = {name: loss(w) - loss(found) for name, w in without.items()}
    assert pruning.order(scores) == sorted(costs, key=costs.__getitem__) == list("bdca")
    assert pruning.order({n: float(m.abs()) for n, m in means.items()}) != list("bdca")
    for name, cost in costs.items():  # m² ÷ σ² = 2 · N · (rise of the mean loss)
        assert scores[name] == pytest.approx(2 * 3000 * cost, rel=0.2)


def test_small_weights_in_half_precision_still_count():
    small = Posterior({"w": torch.tensor([1e-4]).half()}, {"w": torch.tensor([1e-4]).half()})
    assert pruning.relevance(small)["w"].item() == pytest.approx(1e-4, rel=0.01)


def test_a_channels_score_sums_over_all_that_reads_it():
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


def test_a_silenced_block_passes_its_input_on():
    tensors = unet(STARTER).state_dict()
    blocks = pruning.residual_blocks(STARTER)
    chosen = "down_blocks.1.resnets.1", "mid_block.attentions.0"
    silent = pruning.silence(tensors, {name: blocks[name] for name in chosen})
    network = loaded(STARTER, silent)
    seen = {}
    for name in chosen:
        network.get_submodule(name).register_forward_hook(
            lambda _module, inputs, found, name=name: seen.update(
                {name: (inputs[0], found[0] if isinstance(found, tuple) else found)}
            )
        )
    output(network)
    for before, after in seen.values():
        assert torch.equal(before, after)
    assert len(seen) == 2
    assert "up_blocks.0.resnets.0" not in blocks  # its shortcut is a convolution
    assert "down_blocks.1.resnets.0" not in blocks


def test_the_prior_without_blocks_is_the_posterior_of_the_rest():
    known = of_toy(STARTER)
    left = pruning.prior_without_blocks(known, ["mid_block.resnets.1", "mid_block.attentions.0"])
    assert {".".join(n.split(".")[:3]) for n in set(known.mean) - set(left.mean)} == {
        "mid_block.resnets.1",
        "mid_block.attentions.0",
    }
    assert all(torch.equal(left.variance[name], known.variance[name]) for name in left.mean)


@pytest.mark.parametrize("cut", [cuts.CUTS[name] for name in PUBLISHED], ids=PUBLISHED)
def test_the_prior_of_a_cut_is_the_posterior_of_the_weights_it_copies(cut):
    known = of_toy(STARTER)
    prior = pruning.prior_of_cut(known, STARTER, cut=cut, new_variance=7.0)
    copied = weights.copy(known.mean, STARTER, cut=cut)
    assert set(prior.mean) == set(cuts.student_shape(STARTER, cut).tensors)
    partly_new = []
    for name, source in weights.sources(STARTER, cut).items():
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

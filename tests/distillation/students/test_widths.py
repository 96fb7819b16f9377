"""A narrower student computes what its teacher does if nothing reads the removed channels."""

from fractions import Fraction

import pytest
import torch

from distillation.students import channels, cuts, pruning, weights, widths
from distillation.students.errors import StudentRefused
from distillation.students.posterior import Posterior
from distillation.students.unets import UNetShape

from .toys import DEEP, SD15, STARTER, loaded, output, unet

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
# All levels equally wide: groups of norms over two of them are pairs of groups.
EVEN = DEEP.changed(
    {"attention_head_dim": 4, "block_out_channels": [16, 16, 16], "norm_num_groups": 8}
)
DOUBLING = EVEN.changed(
    {"block_out_channels": [16, 32, 32]}
)  # groups cross the borders of the parts


def random_scores(shape: UNetShape) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    spaces = channels.layout(shape).spaces
    return {name: torch.rand(space.channels, generator=generator) for name, space in spaces.items()}


def with_unread_channels(
    tensors: dict[str, torch.Tensor], plan: widths.WidthPlan
) -> dict[str, torch.Tensor]:
    """Return the teacher's tensors with zero outgoing weights of all removed channels and lost frequencies.

    LayerNorms see all channels: those removed are made copies of those kept, which leaves mean and variance.
    """
    layout = plan.layout
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for slot in layout.slots:
        width = layout.spaces[slot.space].channels
        kept = plan.kept[slot.space]
        removed = torch.tensor(sorted(set(range(width)) - set(kept.tolist())))
        if slot.is_outgoing:
            tensors[slot.tensor].index_fill_(slot.axis, slot.start + removed, 0)
        elif (
            "attentions" in slot.space
            and slot.space.endswith("hidden")
            and "ff.h" not in slot.space
        ):
            copies = kept.repeat(len(removed) // len(kept))
            tensors[slot.tensor][removed] = tensors[slot.tensor][copies]
    is_kept = (plan.sinusoids.mix == 1).sum(1) == 1
    tensors[channels.FREQUENCIES][:, ~is_kept] = 0
    return tensors


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (EVEN, HALF),
        (DOUBLING, QUARTER),
        (cuts.student_shape(EVEN, cuts.CUTS["small"]), HALF),
    ],
    ids=["even", "doubling", "small"],
)
def test_removing_channels_that_nothing_reads_changes_no_output(config, share):
    plan = widths.plan(config, share, scores=random_scores(config))
    tensors = with_unread_channels(unet(config).state_dict(), plan)
    student = loaded(plan.student, widths.narrow(tensors, plan))
    expected = output(loaded(config, tensors))
    assert student.conv_in.out_channels == 16 * share
    assert expected.std() > 0.1
    assert torch.allclose(output(student), expected, atol=1e-4 * float(expected.std()))


def test_mixed_norms_change_the_output():
    plan = widths.plan(DOUBLING, HALF, scores=random_scores(DOUBLING), may_mix_norms=True)
    tensors = with_unread_channels(unet(DOUBLING).state_dict(), plan)
    student = loaded(plan.student, widths.narrow(tensors, plan))
    expected = output(loaded(DOUBLING, tensors))
    found = output(student)
    assert found.isfinite().all()
    assert (found - expected).std() > 1e-3 * expected.std()


def test_scores_find_the_channels_that_nothing_reads():
    planted = widths.plan(EVEN, HALF, scores=random_scores(EVEN))
    tensors = with_unread_channels(unet(EVEN).state_dict(), planted)
    posterior = Posterior(tensors, {name: torch.ones_like(t) for name, t in tensors.items()})
    scores = pruning.channel_scores(posterior, channels.layout(EVEN))
    found = widths.plan(EVEN, HALF, scores=scores)
    assert all(torch.equal(kept, planted.kept[name]) for name, kept in found.kept.items())


def test_groups_heads_and_gates_are_removed_as_wholes():
    plan = widths.plan(EVEN, HALF, scores=random_scores(EVEN))
    layout = channels.layout(EVEN)
    for name, space in layout.spaces.items():
        assert len(plan.kept[name]) == space.channels / 2
        runs = plan.kept[name].view(-1, space.unit)
        assert (runs // space.unit == runs[:, :1] // space.unit).all(), name
    tensors = unet(EVEN).state_dict()
    narrowed = widths.narrow(tensors, plan)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    kept = plan.kept[f"{block}.ff.hidden"]
    values, gates = narrowed[f"{block}.ff.net.0.proj.bias"].chunk(2)
    of_teacher = tensors[f"{block}.ff.net.0.proj.bias"]
    assert torch.equal(values, of_teacher[kept])
    assert torch.equal(gates, of_teacher[kept + 64])


def test_variances_are_those_of_the_narrowed_weights():
    plan = widths.plan(STARTER, HALF, scores=random_scores(STARTER), may_mix_norms=True)
    torch.manual_seed(0)
    deviations = {name: torch.rand(shape) + 0.5 for name, shape in STARTER.tensors.items()}
    found = widths.narrow_variances({name: d**2 for name, d in deviations.items()}, plan)
    # The student's weight is a sum of the teacher's, which are independent: squares of the terms add up.
    first = deviations[channels.FREQUENCIES]
    terms = [
        widths.narrow(
            {**deviations, channels.FREQUENCIES: first * (torch.arange(8) == column)}, plan
        )
        for column in range(8)
    ]
    squares = sum(term[channels.FREQUENCIES] ** 2 for term in terms)
    assert torch.allclose(found[channels.FREQUENCIES], squares)
    assert torch.allclose(found["conv_in.bias"], terms[0]["conv_in.bias"] ** 2)


def test_a_cut_and_a_width_can_be_combined():
    cut = cuts.CUTS["tiny"]
    teacher = STARTER.changed({"block_out_channels": [16, 32, 64], "norm_num_groups": 8})
    copied = weights.copy(unet(teacher).state_dict(), teacher, cut=cut)
    middle = cuts.student_shape(teacher, cut)
    plan = widths.plan(middle, HALF, scores=random_scores(middle), may_mix_norms=True)
    student = loaded(plan.student, widths.narrow(copied, plan))
    assert output(student).isfinite().all()
    sizes = (sum(map(torch.Size.numel, shape.tensors.values())) for shape in (plan.student, middle))
    assert next(sizes) < next(sizes) / 3


def test_stable_diffusion_can_be_cut_to_five_eighths_without_mixing_norms():
    assert widths.exact_shares(SD15) == (Fraction(1, 4), Fraction(5, 8))


@pytest.mark.parametrize(
    ("config", "share", "reason"),
    [
        (EVEN, Fraction(1), "between 0 and 1"),
        (EVEN, Fraction(1, 3), "multiple of 1/8"),
        (EVEN, Fraction(1, 8), "4 heads"),
        (EVEN.changed({"block_out_channels": [8, 8, 8]}), QUARTER * 3 / 2, "heads"),
        (DOUBLING, HALF, "Shares at which they can: 1/4"),
    ],
)
def test_a_share_that_cannot_be_kept_is_refused(config, share, reason):
    with pytest.raises(StudentRefused, match=reason):
        widths.plan(config, share, scores=random_scores(config))


def test_scores_must_be_complete_and_finite():
    scores = random_scores(EVEN)
    with pytest.raises(StudentRefused, match="conv_in are not all finite"):
        widths.plan(EVEN, HALF, scores={**scores, "conv_in": torch.full((16,), torch.nan)})
    del scores["conv_in"]
    with pytest.raises(StudentRefused, match="conv_in are missing"):
        widths.plan(EVEN, HALF, scores=scores)

"""A student gets all its tensors from the right layers of its teacher."""

import pytest
import torch

from distillation.students import cuts, weights
from distillation.students.errors import StudentRefused

from .toys import DEEP, PUBLISHED, STARTER, loaded, output, sources, unet

TEACHERS = {"starter": STARTER, "deep": DEEP}


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=list(TEACHERS))
@pytest.mark.parametrize("cut", [cuts.CUTS[name] for name in PUBLISHED], ids=PUBLISHED)
def test_a_student_runs_on_copied_weights_alone(teacher, cut):
    tensors = unet(teacher).state_dict()
    copied = weights.copy(tensors, teacher, cut=cut)
    student = loaded(cuts.student_shape(teacher, cut), copied)
    found = output(student)
    assert found.shape == (2, 4, 8, 8)
    assert found.isfinite().all()
    kept = {name: tensors[source] for name, source in sources(teacher, cut).items()}
    partly_new = {name for name, source in kept.items() if source.shape != copied[name].shape}
    assert all(torch.equal(copied[name], kept[name]) for name in set(copied) - partly_new)
    assert len(set(sources(teacher, cut).values())) == len(copied)  # none is used twice
    assert bool(partly_new) == (cut.name == "tiny" and teacher is STARTER)


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("base", "up_blocks.0.resnets.1.conv1.weight", "up_blocks.0.resnets.2.conv1.weight"),
        ("base", "up_blocks.1.attentions.1.norm.bias", "up_blocks.1.attentions.2.norm.bias"),
        ("base", "up_blocks.0.resnets.0.conv1.bias", "up_blocks.0.resnets.0.conv1.bias"),
        ("base", "down_blocks.1.resnets.0.conv1.bias", "down_blocks.1.resnets.0.conv1.bias"),
        ("base", "mid_block.resnets.1.conv1.bias", "mid_block.resnets.1.conv1.bias"),
        ("tiny", "up_blocks.0.resnets.1.conv2.bias", "up_blocks.1.resnets.2.conv2.bias"),
        ("tiny", "up_blocks.0.upsamplers.0.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
        ("tiny", "conv_in.weight", "conv_in.weight"),
    ],
)
def test_the_source_is_the_layer_that_is_kept(name, student, teacher):
    assert sources(STARTER, cuts.CUTS[name])[student] == teacher


def test_after_a_removed_wider_stage_only_the_weights_of_the_skip_are_copied():
    tensors = unet(STARTER).state_dict()
    copied = weights.copy(tensors, STARTER, cut=cuts.CUTS["tiny"])
    first = "up_blocks.0.resnets.0"
    source = sources(STARTER, cuts.CUTS["tiny"])
    assert {name for name in copied if copied[name].shape != tensors[source[name]].shape} == {
        f"{first}.{end}"
        for end in ("norm1.weight", "norm1.bias", "conv1.weight", "conv_shortcut.weight")
    }
    of_teacher = tensors["up_blocks.1.resnets.0.conv1.weight"]
    assert of_teacher.shape[1] == 32 + 16
    of_student = copied[f"{first}.conv1.weight"]
    assert torch.equal(of_student[:, 16:], of_teacher[:, 32:])
    assert not of_student[:, :16].any()
    norm = copied[f"{first}.norm1.weight"]
    assert torch.equal(norm[:16], norm[16:])
    assert torch.equal(norm[16:], tensors["up_blocks.1.resnets.0.norm1.weight"][32:])
    wide = weights.copy(tensors, STARTER, cut=cuts.CUTS["tiny"], new=0.5)
    assert (wide[f"{first}.conv1.weight"][:, :16] == 0.5).all()


def test_training_the_student_does_not_change_the_teacher():
    tensors = unet(STARTER).state_dict()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    copied = weights.copy(tensors, STARTER, cut=cuts.CUTS["small"])
    for tensor in copied.values():
        tensor.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())


def test_a_teacher_with_a_missing_tensor_is_refused():
    tensors = unet(STARTER).state_dict()
    del tensors["conv_out.bias"]
    with pytest.raises(StudentRefused, match=r"conv_out\.bias"):
        weights.copy(tensors, STARTER, cut=cuts.CUTS["base"])
    assert "conv_out.bias" in STARTER.tensors


@pytest.mark.parametrize(
    ("teacher", "name", "attends"),
    [(STARTER, "base-low", {2}), (STARTER, "small-low", {2}), (DEEP, "tiny-low", {1})],
    ids=["starter-base", "starter-small", "deep-tiny"],
)
def test_a_low_cut_attends_at_low_resolutions_only_and_keeps_the_rest(teacher, name, attends):
    cut = cuts.CUTS[name]
    shape = cuts.student_shape(teacher, cut)
    copied = weights.copy(unet(teacher).state_dict(), teacher, cut=cut)

    assert {level for level in range(shape.levels) if shape.attends(level)} == attends
    assert output(loaded(shape, copied)).isfinite().all()
    whole = sources(teacher, cuts.CUTS[name.removesuffix("-low")])
    left_out = set(whole) - set(sources(teacher, cut))
    assert left_out and all(".attentions." in tensor for tensor in left_out)
    assert all(len(pair) == 2 for pair in cuts.feature_pairs(teacher, cut))


def test_a_low_cut_that_would_not_see_the_prompt_is_refused():
    with pytest.raises(StudentRefused, match="would not see the prompt"):
        cuts.student_shape(STARTER, cuts.CUTS["tiny-low"])

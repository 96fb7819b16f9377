"""The three cuts have BK-SDM's sizes at the size of SD 1.5, and are refused where they make no sense."""

import pytest

from distillation.students import cuts
from distillation.students.errors import StudentRefused

from .toys import DEEP, PUBLISHED, SD15, STARTER, output, unet


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("base", 579_384_964), ("small", 482_346_884), ("tiny", 323_384_964)],
)
def test_the_students_of_stable_diffusion_have_the_published_sizes(name, parameters):
    found = cuts.student_shape(SD15, cuts.cut_named(name)).tensors
    assert sum(shape.numel() for shape in found.values()) == parameters


@pytest.mark.parametrize("teacher", [STARTER, DEEP], ids=["starter", "deep"])
@pytest.mark.parametrize("cut", [cuts.CUTS[name] for name in PUBLISHED], ids=PUBLISHED)
def test_features_to_compare_have_one_shape(teacher, cut):
    shapes: dict[str, dict[str, tuple]] = {}
    networks = {
        "teacher": unet(teacher),
        "student": unet(cuts.student_shape(teacher, cut)),
    }
    pairs = cuts.feature_pairs(teacher, cut)
    for (role, network), names in zip(networks.items(), zip(*pairs, strict=True), strict=True):
        seen = shapes[role] = {}

        def note(module, _inputs, found, *, seen=seen, network=network):
            name = next(key for key, value in network.named_modules() if value is module)
            seen[name] = tuple((found[0] if isinstance(found, tuple) else found).shape)

        for name in names:
            network.get_submodule(name).register_forward_hook(note)
        output(network)
    assert len(pairs) == len({pair[1] for pair in pairs}) >= 4
    for of_teacher, of_student in pairs:
        assert shapes["teacher"][of_teacher] == shapes["student"][of_student]


def test_lists_per_level_lose_the_level_that_is_removed():
    teacher = STARTER.changed({"attention_head_dim": [1, 2, 4], "layers_per_block": [2, 2, 2]})
    assert cuts.student_shape(teacher, cuts.CUTS["tiny"]).heads == (1, 2)
    assert cuts.student_shape(teacher, cuts.CUTS["base"]).heads == (1, 2, 4)


ONE_LEVEL = {
    "block_out_channels": [8],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
}
BLIND_ABOVE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}


@pytest.mark.parametrize(
    ("fields", "name", "reason"),
    [
        (ONE_LEVEL, "tiny", "leaves none"),
        (BLIND_ABOVE, "tiny", "would not see the prompt"),
        ({"layers_per_block": 1}, "base", "layers_per_block is 1"),
        ({"mid_block_type": None}, "small", "no mid block"),
    ],
)
def test_a_teacher_that_cannot_be_cut_is_refused(fields, name, reason):
    teacher = STARTER.changed(fields)
    with pytest.raises(StudentRefused, match=reason):
        cuts.student_shape(teacher, cuts.CUTS[name])


def test_a_cut_that_is_not_in_the_table_is_refused():
    with pytest.raises(StudentRefused, match="base, small, tiny"):
        cuts.cut_named("huge")

"""A student begins with the weights that it keeps of its teacher; unsuitable recipes are refused with the field."""

import dataclasses
from pathlib import Path

import pytest
import torch

from distillation.students.unets import UNetShape
from distillation.trainers import student as students
from distillation.trainers import teacher as teachers
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused
from generation.engine import importing
from generation.engine.importing import Options
from tests.tiny import TOKENS, WIDTH, make_sd15_folder, make_tiny_release


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Teacher:
    """A teacher with Stable Diffusion 1.5's layout."""
    folder: Path = tmp_path_factory.mktemp("student")
    importing.import_folder(
        make_sd15_folder(folder / "sd15"),
        folder / "release",
        name="sd15",
        options=Options(steps=2),
    )
    loaded = teachers.load(folder / "release", device="cpu")
    return dataclasses.replace(loaded, is_bf16=False)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([999, 400]),
        torch.randn(2, TOKENS, WIDTH, generator=generator),
    )


def test_an_uncut_student_predicts_exactly_as_its_teacher(teacher):
    student = students.make(teacher, StudentRecipe(cut=None, width="1"))
    latents, timesteps, embeds = inputs()
    with torch.no_grad():
        found = teacher.passed(student, latents, timesteps, embeds)
    assert torch.equal(found, teacher.predict(latents, timesteps, embeds, guidance_scale=1))


@pytest.mark.parametrize("cut", ["base", "small", "tiny"])
def test_a_cut_student_keeps_its_teachers_weights(teacher, cut):
    student = students.make(teacher, StudentRecipe(cut=cut))
    own, of_teacher = student.state_dict(), teacher.unet.state_dict()
    assert torch.equal(own["conv_in.weight"], of_teacher["conv_in.weight"])
    # The second layer of an up stage goes, so the student's second is the teacher's third.
    stage = 0 if cut == "tiny" else 1
    assert torch.equal(
        own[f"up_blocks.{stage}.resnets.1.conv2.weight"],
        of_teacher["up_blocks.1.resnets.2.conv2.weight"],
    )
    with torch.no_grad():
        output = teacher.passed(student, *inputs())
    assert output.shape == (2, 4, 8, 8) and output.isfinite().all() and output.std() > 0


def test_a_student_has_the_first_image_size_of_its_teachers_release(teacher):
    assert teacher.unet.config.sample_size == 8
    manifest = dataclasses.replace(teacher.manifest, image_sizes=[(56, 56), (64, 64)])
    smaller = dataclasses.replace(teacher, manifest=manifest)
    assert students.make(smaller, StudentRecipe()).config.sample_size == 7


def test_every_cut_makes_a_smaller_student(teacher):
    sizes = [
        sum(p.numel() for p in students.make(teacher, StudentRecipe(cut=name)).parameters())
        for name in (None, "base", "small", "tiny")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_a_base_student_predicts_nearer_to_its_teacher_than_a_random_one(teacher):
    """Layers on a residual path only add to it; without half of them the rest is still the teacher's."""
    latents, timesteps, embeds = inputs()
    target = teacher.predict(latents, timesteps, embeds, guidance_scale=1)
    student = students.make(teacher, StudentRecipe(cut="base"))
    torch.manual_seed(1)
    random = type(student).from_config(student.config)
    with torch.no_grad():
        near, far = (
            (teacher.passed(network, latents, timesteps, embeds) - target).square().mean()
            for network in (student, random)
        )
    assert near < 0.5 * far


def test_a_student_is_trainable_and_shares_no_weights_with_its_teacher(teacher):
    student = students.make(teacher, StudentRecipe(cut="small"))
    before = teacher.unet.conv_in.weight.clone()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in student.parameters())
    teacher.passed(student, *inputs()).square().mean().backward()
    assert all(p.grad is not None for p in student.parameters())
    with torch.no_grad():
        student.conv_in.weight.add_(1)
    assert torch.equal(teacher.unet.conv_in.weight, before)
    uncut = students.make(teacher, StudentRecipe(cut=None))
    with torch.no_grad():
        uncut.conv_in.weight.add_(1)
    assert torch.equal(teacher.unet.conv_in.weight, before)


def test_a_narrower_student_keeps_its_share_of_the_channels(teacher):
    student = students.make(teacher, StudentRecipe(cut=None, width="1/2"))
    assert tuple(student.config.block_out_channels) == (4, 8, 16, 16)
    with torch.no_grad():
        output = teacher.passed(student, *inputs())
    assert output.isfinite().all()


def test_features_of_a_cut_student_are_paired_with_the_teachers_of_one_shape(teacher):
    recipe = StudentRecipe(cut="tiny")
    student = students.make(teacher, recipe)
    pairs = students.feature_pairs(teacher, recipe)
    assert pairs
    shapes: dict[str, list[torch.Size]] = {"teacher": [], "student": []}

    def note(owner: str, module: torch.nn.Module):
        def hook(_module, _inputs, output) -> None:
            found = output[0] if isinstance(output, tuple) else output
            shapes[owner].append(found.shape)

        return module.register_forward_hook(hook)

    handles = [note("teacher", teacher.unet.get_submodule(name)) for name, _ in pairs]
    handles += [note("student", student.get_submodule(name)) for _, name in pairs]
    latents, timesteps, embeds = inputs()
    teacher.predict(latents, timesteps, embeds, guidance_scale=1)
    teacher.passed(student, latents, timesteps, embeds)
    for handle in handles:
        handle.remove()
    assert len(shapes["teacher"]) == len(pairs)
    assert shapes["teacher"] == shapes["student"]


@pytest.mark.parametrize("recipe", [StudentRecipe(cut=None), StudentRecipe(cut=None, width="1/2")])
def test_a_narrower_student_and_an_uncut_one_have_no_paired_features(teacher, recipe):
    assert students.feature_pairs(teacher, recipe) == ()


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cut": "huge"}, r"cut must be one of base, small, tiny"),
        ({"width": "much"}, r"width must be a fraction"),
        ({"width": "0"}, r"width must be above 0"),
        ({"width": "3/2"}, r"width must be above 0 and at most 1"),
        ({"width": "1/0"}, r"width must be a fraction"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(fields, named):
    with pytest.raises(ValueError, match=named):
        StudentRecipe(**fields)


def test_a_teacher_of_one_layer_per_block_is_refused_with_a_cut_that_works(tmp_path):
    make_tiny_release(tmp_path / "release")  # layers_per_block 1
    teacher = teachers.load(tmp_path / "release", device="cpu")
    with pytest.raises(RecipeRefused, match=r"student \(cut base.*tiny.*layers_per_block is 1"):
        students.make(teacher, StudentRecipe(cut="base"))


def test_an_impossible_width_is_refused_with_possible_ones(teacher):
    with pytest.raises(RecipeRefused, match=r"width 3/7.*sd15.*3/7") as caught:
        students.make(teacher, StudentRecipe(cut=None, width="3/7"))
    assert "norm" in str(caught.value) or "multiple" in str(caught.value)


def test_a_teacher_of_other_blocks_is_refused_with_the_field(teacher):
    config = UNetShape(teacher.unet.config).config
    kinds = ("AttnDownBlock2D", *config["down_block_types"][1:])
    changed = type(teacher.unet).from_config({**config, "down_block_types": kinds})
    odd = dataclasses.replace(teacher, unet=changed)
    with pytest.raises(RecipeRefused, match=r"down_block_types.*AttnDownBlock2D"):
        students.make(odd, StudentRecipe(cut="tiny"))

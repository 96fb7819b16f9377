"""Sample sheets: a student's pictures below its teacher's, from noise that no training uses."""

import json

import pytest
import torch
from PIL import Image

from distillation.trainers import joint, regression
from distillation.trainers.dmd2 import trainer as dmd2
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.joint import JointRecipe
from distillation.trainers.regression import RegressionRecipe
from distillation.trainers.sample_sheets import Samples
from distillation.training import loop
from distillation.training.task import Progress
from tests.distillation.trainers import few_step_toys as toys

torch.set_num_threads(1)


@pytest.fixture
def samples() -> Samples:
    teacher = toys.teacher()
    return Samples(teacher, pairs=toys.pairs(teacher, prompts=3), catalogue=toys.catalogue())


def test_the_sheet_has_the_teachers_pictures_above_and_names_its_step(tmp_path, samples):
    side = 64
    samples.write(tmp_path, torch.ones(3, 3, side, side), Progress(7, 9, 1.0))
    facts = json.loads((tmp_path / "samples.json").read_text())
    assert facts == {"step": 7, "steps": 9, "texts": [f"variant {n}" for n in range(3)]}
    with Image.open(tmp_path / "samples.webp") as sheet:
        assert sheet.width == 3 * side + 16 and sheet.height > 2 * side
        white = sheet.getpixel((30, sheet.height - 40))
    assert min(white) > 240


def test_an_accepted_pair_of_each_prompt_is_shown_if_there_is_one():
    teacher = toys.teacher()
    pairs = toys.pairs(teacher, prompts=3, seeds=2)
    pairs.accepted[:] = torch.tensor([False, True, True, True, False, False])
    found = Samples(teacher, pairs=pairs, catalogue=toys.catalogue())
    assert torch.equal(found.noise, pairs.noise(torch.tensor([1, 2, 4])))


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        (regression.train, RegressionRecipe(steps=2, batch=2, warmup=0, watched=2)),
        (
            dmd2.train,
            MatchingRecipe(
                steps=2, batch=2, critic_batch=2, critic_updates=1, paired=1, warmup=0,
                student_after=0, watched=2,
            ),
        ),
        (joint.train, JointRecipe(steps=2, batch=2, warmup=0, watched=2)),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_stage_ends_with_a_sheet_and_is_not_changed_by_it(tmp_path, samples, train, recipe):
    def trained(name: str, shown: Samples | None) -> dict[str, torch.Tensor]:
        made = train(recipe, toys.inputs(tmp_path / name, of=toys.teacher(), samples=shown))
        network = made[0] if isinstance(made, tuple) else made
        return network.state_dict()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "FIRST_SHEET_SECONDS", 0.0)  # after each step
        patch.setattr(loop, "SHEET_SECONDS", 0.0)
        patch.setattr(loop, "SHEET_SHARE", 1e9)
        ours = trained("shown", samples)
    assert json.loads((tmp_path / "shown" / "samples.json").read_text())["step"] == recipe.steps
    assert (tmp_path / "shown" / "samples.webp").stat().st_size > 500
    theirs = trained("plain", None)
    assert not (tmp_path / "plain" / "samples.webp").exists()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_sheets_cost_a_hundredth_of_the_time_at_most(tmp_path):
    """A step takes a second here, a sheet two."""
    now = [0.0]
    drawn: list[int] = []

    class Slow:
        modules = {"one": torch.nn.Linear(1, 1)}
        optimizers: dict = {}
        emas: dict = {}

        def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
            now[0] += 1.0
            return {"loss": 0.0}

    def draw(progress: Progress) -> None:
        now[0] += 2.0
        drawn.append(progress.step)

    loop.run(
        Slow(), tmp_path, steps=700, seed=0, title="toy", clock=lambda: now[0],
        progress_bar=False, draw=draw, checkpoint_every_seconds=1e9,
    )  # fmt: skip
    assert drawn == [10, 210, 410, 610, 700]


def test_a_decoder_is_shown_on_the_teachers_latents(samples):
    decoder = toys.decoder()
    pictures = samples.drawn(decoder.decoder, samples.latents)
    with torch.no_grad():
        assert torch.equal(pictures, decoder.decode(samples.latents).sample)

"""Pairs equal the engine's results for the same seeds, are made once, and share no seeds with evaluations."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from distillation.detector.network import Detector, DetectorConfig
from distillation.resumable import progress
from distillation.trainers import judging, pairs
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue, bits_of
from distillation.trainers.pairs import PairsRecipe, drawn, generate, read, solver_timesteps
from distillation.trainers.schedule import CLEAN
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused, TrainingError
from generation.engine import pipeline, release
from generation.engine.latents import to_pixels
from generation.engine.prompts import embeddings
from generation.engine.request import GenerationRequest
from tests.tiny import TOKENS, WIDTH, make_tiny_release

RECIPE = PairsRecipe(
    seeds_per_variant=5,
    held_out=0.4,
    num_inference_steps=0,
    path_timesteps=(749, 249),
    batch=4,
    written=5,
)


@pytest.fixture(scope="module", params=["v_prediction"])
def teacher(tmp_path_factory, request) -> Teacher:
    folder: Path = tmp_path_factory.mktemp("pairs") / "release"
    make_tiny_release(
        folder,
        guidance_scale=2.0,
        prediction_type=request.param,
        zero_snr=request.param == "v_prediction",
    )
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "set_alpha_to_one": True}))
    manifest = release.read(folder)
    release.write(folder, dataclasses.replace(manifest, files=release.list_files(folder)))
    return dataclasses.replace(teachers.load(folder, device="cpu"), is_bf16=False)


@pytest.fixture(scope="module")
def catalogue(teacher) -> Catalogue:
    embeds = torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(3)).half()
    return Catalogue(
        ("red-cube", "red-ball", "ball"),
        ("red cube", "red ball", "ball"),
        embeds,
        teacher.manifest.encoder_fingerprint,
    )


@pytest.fixture(scope="module")
def made(teacher, catalogue, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("made")
    run(folder, teacher, catalogue)
    return folder


def run(folder: Path, teacher: Teacher, catalogue: Catalogue, **changes) -> None:
    detector, further = changes.pop("detector", None), changes.pop("further", {})
    generate(
        dataclasses.replace(RECIPE, **changes),
        teacher=teacher,
        catalogue=catalogue,
        detector=detector,
        folder=folder,
        store=folder / "store",
        further=further,
        progress_bar=False,
    )


# --- content of pairs -----------------------------------------------------------------------------
@pytest.mark.parametrize("teacher", ["v_prediction", "epsilon"], indirect=True)
def test_pictures_of_pairs_are_those_of_the_engine(made, teacher, catalogue):
    found = read(made, "train")
    loaded = pipeline.load(teacher.folder, device="cpu", dtype="float32")
    width, height = loaded.manifest.image_sizes[0]
    requests = [
        GenerationRequest(
            embedding=embeddings.pack(
                catalogue.prompt_embeds[prompt].numpy(), catalogue.encoder_fingerprint
            ),
            seed=seed,
            width=width,
            height=height,
        )
        for prompt, seed in zip(found.prompts.tolist(), found.seeds.tolist(), strict=True)
    ]
    pictures = to_pixels(teacher.decode(found.latents.float()))
    results = loaded.generate(requests)
    for result, picture in zip(results, pictures, strict=True):
        difference = abs(result.pixels.astype(int) - picture.astype(int)).max()
        assert difference <= pipeline.TOLERANCE["float32"]
    assert pictures.std() > 5


def test_noise_is_drawn_again_from_the_seed(made):
    found = read(made, "train")
    rows = torch.tensor([4, 0])
    noise = found.noise(rows)
    for row, value in zip(rows, noise, strict=True):
        seed = int(found.seeds[row])
        expected = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(value, expected)


def test_every_variant_has_all_its_seeds_and_no_seed_occurs_twice(made):
    train, held_out = read(made, "train"), read(made, "held_out")
    seeds = torch.cat([train.seeds, held_out.seeds]).tolist()
    assert len(set(seeds)) == len(seeds) == 3 * 5
    assert min(seeds) >= pairs.FIRST_SEED
    for row in range(3):
        assert int((train.prompts == row).sum()) == 3
        assert int((held_out.prompts == row).sum()) == 2
    assert train.accepted.all() and held_out.accepted.all()
    assert (train.margins == 1).all()


@pytest.mark.parametrize("teacher", ["v_prediction", "epsilon"], indirect=True)
def test_points_of_the_path_are_the_states_before_the_teachers_step_there(made, teacher, catalogue):
    found = read(made, "train")
    rows = torch.arange(2)
    latents, embeds = found.noise(rows), catalogue.embeds(found.prompts[rows])
    states = {}
    for timestep, following in zip(teacher.timesteps, (*teacher.timesteps[1:], CLEAN), strict=True):
        states[timestep] = latents
        at = torch.full((2,), timestep)
        prediction = teacher.predict(latents, at, embeds)
        latents = teacher.schedule.stepped(prediction, latents, at, torch.full_like(at, following))
    assert found.path_timesteps == (749, 249)
    assert found.path.shape == (9, 2, 4, 8, 8)
    for place, timestep in enumerate(found.path_timesteps):
        assert torch.allclose(
            found.path[rows, place].float(), states[timestep], rtol=1e-3, atol=1e-3
        )
    assert torch.allclose(found.latents[rows].float(), latents, rtol=1e-3, atol=1e-3)
    assert (states[749] - states[249]).abs().max() > 0.1


def test_a_path_of_no_timesteps_takes_no_space(teacher, catalogue, tmp_path):
    run(tmp_path, teacher, catalogue, path_timesteps=())
    found = read(tmp_path, "train")
    assert found.path.shape == (9, 0, 4, 8, 8)
    assert torch.allclose(found.latents.float(), found.take(torch.arange(9)).latents.float())


def test_without_the_path_the_other_tensors_are_the_same(made):
    found, whole = read(made, "train", with_path=False), read(made, "train")
    assert (found.path.shape, found.path_timesteps) == ((9, 0, 4, 8, 8), ())
    for name in ("prompts", "seeds", "latents", "accepted", "margins"):
        assert torch.equal(getattr(found, name), getattr(whole, name))


def test_pairs_that_are_all_accepted_are_not_copied(made, monkeypatch):
    def take(*_: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(pairs.Pairs, "take", take)
    assert len(read(made, "train", only_accepted=True)) == 9


def test_a_hard_variant_has_further_seeds_in_training_alone(made, teacher, catalogue, tmp_path):
    run(tmp_path, teacher, catalogue, further={1: 2})
    before, after = read(made, "train"), read(tmp_path, "train")
    assert torch.bincount(after.prompts).tolist() == [3, 9, 3]
    assert len(set(after.seeds.tolist())) == len(after)
    same = [after.seeds.tolist().index(seed) for seed in before.seeds.tolist()]
    assert torch.equal(after.latents[same], before.latents)
    assert torch.equal(read(tmp_path, "held_out").seeds, read(made, "held_out").seeds)
    one = read(tmp_path, "train", prompts=[2])
    assert torch.equal(one.seeds, before.seeds[before.prompts == 2])


def test_the_number_of_steps_may_differ_from_the_releases(teacher):
    recipe = dataclasses.replace(RECIPE, num_inference_steps=2, path_timesteps=(499,))
    assert solver_timesteps(recipe, teacher) == (999, 499)
    assert solver_timesteps(RECIPE, teacher) == teacher.timesteps == (999, 749, 499, 249)


def test_rows_are_drawn_from_all_of_them_by_the_generator(made):
    found = read(made, "train")
    rows = drawn(found, 200, torch.Generator().manual_seed(0))
    assert rows.dtype == torch.int64
    assert set(rows.tolist()) == set(range(9))
    assert torch.equal(rows, drawn(found, 200, torch.Generator().manual_seed(0)))


def test_taken_rows_stay_consistent(made):
    found = read(made, "train")
    part = found.take(torch.tensor([7, 2]))
    assert len(part) == 2
    assert torch.equal(part.seeds, found.seeds[[7, 2]])
    assert torch.equal(part.path, found.path[[7, 2]])
    assert torch.equal(part.noise(torch.tensor([0])), found.noise(torch.tensor([7])))


# --- making them ----------------------------------------------------------------------------------
def solved(teacher: Teacher, folder: Path, catalogue: Catalogue, **changes) -> list[int]:
    """Return how many rows the teacher predicted in each call."""
    passed = []
    handle = teacher.unet.register_forward_hook(
        lambda _module, given, _out: passed.append(len(given[0]))
    )
    run(folder, teacher, catalogue, **changes)
    handle.remove()
    return passed


def test_existing_pairs_are_not_made_again(made, teacher, catalogue, tmp_path):
    """Missing pairs are made from the same seeds; the others are unchanged."""

    run(tmp_path, teacher, catalogue)
    names = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    assert names == sorted(path.name for path in made.rglob("*.safetensors"))
    (tmp_path / pairs.SUMMARY).unlink()
    (tmp_path / "store" / names[1]).unlink()
    # Batches of four pairs and of one, twice as many rows with guidance, at each timestep.
    steps = len(teacher.timesteps)
    assert solved(teacher, tmp_path, catalogue) == [8] * steps + [2] * steps
    for split in pairs.SPLITS:
        again, before = read(tmp_path, split), read(made, split)
        assert torch.equal(again.latents, before.latents)
        assert torch.equal(again.seeds, before.seeds)


def test_only_pairs_of_new_variants_are_made_for_a_changed_catalogue(
    made, teacher, catalogue, tmp_path
):
    """One was removed, a new one comes first: the others keep their seeds and their latents."""
    embeds = torch.cat([-catalogue.prompt_embeds[:1], catalogue.prompt_embeds[1:]])
    changed = dataclasses.replace(
        catalogue,
        slugs=("new", "red-ball", "ball"),
        texts=("new", "red ball", "ball"),
        prompt_embeds=embeds,
    )
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    steps = len(teacher.timesteps)
    assert solved(teacher, tmp_path, changed) == [8] * steps + [2] * steps
    again, before = read(tmp_path, "train"), read(made, "train")
    for row in (1, 2):
        assert torch.equal(
            again.latents[again.prompts == row], before.latents[before.prompts == row]
        )
    assert not set(again.seeds[again.prompts == 0].tolist()) & set(before.seeds.tolist())
    held_out = read(tmp_path, "held_out").seeds.tolist()
    assert len({*again.seeds.tolist(), *held_out}) == 3 * 5


def test_a_watcher_stops_the_making_after_a_write_and_the_same_call_continues(
    made, teacher, catalogue, tmp_path
):
    calls = []

    def watcher(title: str, done: int, total: int) -> bool:
        calls.append((title, done, total))
        return done >= 5

    with progress.watched(watcher), pytest.raises(progress.SliceOver):
        run(tmp_path, teacher, catalogue)
    assert calls == [("pairs", 4, 15), ("pairs", 5, 15)]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    run(tmp_path, teacher, catalogue)
    assert torch.equal(read(tmp_path, "train").latents, read(made, "train").latents)


@pytest.mark.parametrize("harm", [None, lambda path: path.write_bytes(b"half")])
def test_a_stop_within_a_file_loses_no_batch(teacher, catalogue, tmp_path, harm):
    """The finished file has the same bytes as without a stop; a part that cannot be read is made again."""
    one = dataclasses.replace(
        catalogue, slugs=("ball",), texts=("ball",), prompt_embeds=catalogue.prompt_embeds[2:]
    )
    recipe = {"seeds_per_variant": 8, "batch": 2, "written": 2}
    run(tmp_path / "whole", teacher, one, **recipe)
    [whole] = (tmp_path / "whole").rglob("*.safetensors")

    with progress.watched(lambda *_: True), pytest.raises(progress.SliceOver):
        run(tmp_path / "made", teacher, one, **recipe)
    [part] = (tmp_path / "made").rglob("*.safetensors")
    if harm is not None:
        harm(part)

    steps = len(teacher.timesteps)
    batches = 3 if harm is None else 4
    assert solved(teacher, tmp_path / "made", one, **recipe) == [4] * steps * batches
    [made] = (tmp_path / "made").rglob("*.safetensors")
    assert made.name == whole.name
    assert made.read_bytes() == whole.read_bytes()


def test_incomplete_pairs_are_not_read(made, tmp_path):
    shutil.copytree(made / "store", tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=pairs.SUMMARY):
        read(tmp_path, "train")


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"half"), Path.unlink])
def test_a_damaged_file_is_named_with_what_to_delete(made, tmp_path, harm):
    shutil.copytree(made, tmp_path / "made")
    path = min((tmp_path / "made" / "store").glob("*.safetensors"))
    harm(path)
    with pytest.raises(TrainingError, match=f"{path} cannot be read: .* Delete it and .*/made, "):
        read(tmp_path / "made", "train")


# --- accepted pairs -------------------------------------------------------------------------------
BITS, GROUPS = ("red", "blue", "cube", "ball"), (2, 2)


def judged(catalogue: Catalogue) -> Catalogue:
    stated, wanted = bits_of([["red", "cube"], ["red", "ball"], ["ball"]], BITS, GROUPS)
    return dataclasses.replace(catalogue, stated=stated, wanted=wanted)


def accepted(probabilities: torch.Tensor, rows: torch.Tensor, known: Catalogue) -> torch.Tensor:
    return judging.as_stated(
        probabilities, rows, known, groups=GROUPS, thresholds=torch.full((len(BITS),), 0.5)
    )


def test_a_picture_is_right_if_each_group_that_its_variant_names_is(catalogue):
    probabilities = torch.tensor(
        [
            [0.6, 0.4, 0.9, 0.1],  # red cube
            [0.4, 0.6, 0.9, 0.1],  # blue cube
            [0.6, 0.4, 0.1, 0.9],  # red ball
        ]
    )
    known = judged(catalogue)
    for row, expected in enumerate(
        ([True, False, False], [False, False, True], [False, False, True])
    ):
        rows = torch.full((3,), row)
        assert accepted(probabilities, rows, known).tolist() == expected
    assert accepted(probabilities, torch.tensor([0, 1, 2]), known).tolist() == [
        True,
        False,
        True,
    ]


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Untrained, and of another size than the pictures; it prefers ball to cube and red to blue, always."""
    torch.manual_seed(0)
    made = Detector(DetectorConfig(bits=BITS, groups=GROUPS, image_size=32)).eval()
    with torch.no_grad():
        last = [m for m in made.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([4.0, -4.0, -4.0, 4.0]))
    return made


def test_only_pairs_that_the_detector_accepts_are_read_if_requested(
    teacher, catalogue, detector, tmp_path
):
    run(tmp_path, teacher, judged(catalogue), detector=detector, path_timesteps=())
    everything, accepted = read(tmp_path, "train"), read(tmp_path, "train", only_accepted=True)
    assert len(everything) == 9 and len(accepted) == 6
    assert torch.equal(everything.accepted, everything.prompts != 0)
    assert torch.equal(everything.margins > 0, everything.accepted)
    assert everything.margins.abs().max() < 1
    assert set(accepted.prompts.tolist()) == {1, 2}
    counts = json.loads((tmp_path / pairs.SUMMARY).read_text())["counts"]
    assert counts == {
        "train": {"pairs": 9, "accepted": 6},
        "held_out": {"pairs": 6, "accepted": 4},
    }


def test_a_detector_that_accepts_no_pair_is_reported(teacher, catalogue, detector, tmp_path):
    stated, wanted = bits_of([["blue"]] * 3, BITS, GROUPS)
    wrong = dataclasses.replace(catalogue, stated=stated, wanted=wanted)
    run(tmp_path, teacher, wrong, detector=detector, path_timesteps=())
    assert len(read(tmp_path, "train")) == 9
    with pytest.raises(RecipeRefused, match="accepts none"):
        read(tmp_path, "train", only_accepted=True)


# --- refusals -------------------------------------------------------------------------------------
def test_a_timestep_that_is_not_the_teachers_is_refused_with_the_valid_ones(teacher):
    recipe = dataclasses.replace(RECIPE, path_timesteps=(749, 300))
    with pytest.raises(
        RecipeRefused, match=r"pairs.path_timesteps has \[300\].*999, 749, 499, 249"
    ):
        solver_timesteps(recipe, teacher)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seeds_per_variant": 1}, "seeds_per_variant"),
        ({"seeds_per_variant": 10_001}, "seeds_per_variant"),
        ({"held_out": 0.0}, "held_out"),
        ({"held_out": 1.0}, "held_out"),
        ({"path_timesteps": (249, 749)}, "path_timesteps"),
        ({"num_inference_steps": -1}, "num_inference_steps"),
        ({"batch": 0}, "batch"),
        ({"written": 0}, "written"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_by_its_field(fields, named):
    with pytest.raises(ValueError, match=named):
        PairsRecipe(**fields)


def test_a_share_that_holds_out_all_seeds_is_refused():
    with pytest.raises(ValueError, match="held_out"):
        PairsRecipe(seeds_per_variant=2, held_out=0.9)


def test_embeddings_of_another_encoder_are_refused(teacher, catalogue, tmp_path):
    other = dataclasses.replace(catalogue, encoder_fingerprint="f" * 64)
    with pytest.raises(RecipeRefused, match="another text encoder"):
        run(tmp_path, teacher, other)
    short = dataclasses.replace(catalogue, prompt_embeds=catalogue.prompt_embeds[:, :16])
    with pytest.raises(RecipeRefused, match=r"16, 32.*77, 32"):
        run(tmp_path, teacher, short)
    assert not list(tmp_path.rglob("*.safetensors"))

"""The pack is a release in Stable Diffusion's layout that stock diffusers loads; it is replaced atomically."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from distillation.detector import network as detectors
from distillation.detector.network import Detector, DetectorConfig
from distillation.evaluation import clip
from distillation.starter import clip as clips
from distillation.starter import examiner as examiners
from distillation.starter import pack, teacher, vae
from distillation.starter.examiner import ExaminerRecipe
from distillation.starter.pack import PackRefused
from distillation.starter.teacher import TeacherRecipe
from distillation.starter.vae import VaeRecipe
from distillation.training import networks
from generation.engine import pipeline as pipelines
from generation.engine import release
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import encoder as encoders
from generation.engine.request import GenerationRequest
from tests.distillation.starter import toys

torch.set_num_threads(1)

TEXT = "a red clay vase on a linen cloth"
TOY_EXAMINER = ExaminerRecipe(image_size=32, widths=(8, 16), depths=(1, 1))
STEPS = 4
GUIDANCE = 2.0


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the components, as written by the stages."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    recipe = TeacherRecipe(
        channels=(8, 16), attends=(False, True), layers=1, heads=2, norm_groups=4
    )
    unet = teacher.build(recipe, latent_channels=4, latent_size=8, text_width=toys.TEXT_WIDTH)
    networks.save(unet, folder / "unet")
    network = vae.build(
        VaeRecipe(channels=(8, 8, 16, 16), latent_channels=4, norm_groups=4, crop=64), image_size=64
    )
    network.register_to_config(scaling_factor=0.5)
    networks.save(network, folder / "vae")
    teacher.noise_scheduler().save_pretrained(folder / "scheduler")
    return {
        "unet": folder / "unet",
        "vae": folder / "vae",
        "scheduler": folder / "scheduler",
        "clip": toys.clip_folder(),
        "tokenizer": toys.tokenizer_folder(),
    }


@pytest.fixture(scope="module")
def packed(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pack") / "teacher"
    pack.write(target, **parts, guidance_scale=GUIDANCE, steps=STEPS)
    return target


def test_a_pack_verifies_and_has_its_sampling_parameters(packed: Path) -> None:
    manifest = release.verify(packed)
    assert (manifest.name, manifest.kind) == ("starter-teacher-2", "teacher")
    assert (manifest.noise_scheduler, manifest.prediction_type) == ("ddim", "v_prediction")
    assert manifest.timesteps == [999, 749, 499, 249]  # trailing
    assert manifest.guidance_scale == GUIDANCE and manifest.weight_dtype == "float16"
    assert manifest.image_sizes == [(64, 64)] and manifest.max_tokens == 16
    assert manifest.embedding_shape == (16, toys.TEXT_WIDTH)


def test_all_weights_are_fp16_and_no_local_path_is_stored(packed: Path) -> None:
    for path in packed.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}, path
    for path in packed.rglob("*.json"):
        assert "/tmp" not in path.read_text("utf-8") and "_name_or_path" not in path.read_text(
            "utf-8"
        )


def stock(packed: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        packed, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_stock_diffusers_and_the_engine_generate_the_same_picture(packed: Path) -> None:
    images = (
        stock(packed)(
            TEXT,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(7),
            output_type="np",
        ).images[0]
        * 255
    )
    assert images.shape == (64, 64, 3) and images.std() > 1

    embedding = encoders.load(packed).encode([TEXT])[0]
    served = pipelines.load(packed, device="cpu", dtype="float32")
    pixels = served.generate([GenerationRequest(embedding, 7, 64, 64)])[0].pixels
    difference = np.abs(pixels.astype(float) - images)
    assert difference.max() <= 4  # stored embeddings are fp16


def test_the_text_encoder_is_the_text_tower_of_the_clip(
    packed: Path, parts: dict[str, Path]
) -> None:
    pipeline = stock(packed)
    tokenizer = CLIPTokenizer.from_pretrained(parts["tokenizer"])
    ids = clips.tokenise(tokenizer, [TEXT])
    expected = clips.load(parts["clip"]).text_model(input_ids=ids).last_hidden_state
    found, _ = pipeline.encode_prompt(TEXT, "cpu", 1, False)
    assert torch.allclose(found, expected, atol=0.02)  # fp16 weights
    assert pipeline.tokenizer.model_max_length == 16


def test_the_same_parts_give_the_same_bytes(
    packed: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    again = pack.write(tmp_path / "teacher", **parts, guidance_scale=GUIDANCE, steps=STEPS)
    assert again.files == release.read(packed).files


def test_a_new_pack_replaces_the_old_one_completely(parts: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "teacher"
    target.mkdir()
    (target / "left-over.txt").write_text("of another release")
    pack.write(target, **parts, guidance_scale=GUIDANCE, steps=STEPS)
    release.verify(target)  # refuses files that are not listed
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def broken_unet(source: Path, target: Path) -> Path:
    networks.save(networks.load(UNet2DConditionModel, source), target)
    weights = load_file(target / pack.WEIGHTS)
    key = next(iter(weights))
    weights[key].view(-1)[0] = 1e5
    save_file(weights, target / pack.WEIGHTS)
    return target


def test_a_failed_packing_leaves_the_old_pack_unchanged(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "pack" / "teacher"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (PackRefused, "at most 1,000", {"most_bytes": 1000}),
        (
            PackRefused,
            "beyond the range of fp16",
            {"unet": broken_unet(parts["unet"], tmp_path / "unet")},
        ),
        (ReleaseInvalid, "number of steps", {"steps": 0}),
    ]
    for kind, message, change in cases:
        with pytest.raises(kind, match=message):
            pack.write(target, **{**parts, "guidance_scale": GUIDANCE, **change})
        assert [path.name for path in target.parent.iterdir()] == ["teacher"]
        assert (target / "old.txt").read_text() == "old"


def test_saved_judges_give_the_same_outputs(parts: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DetectorConfig(bits=("a", "b"), groups=(2,), image_size=32, widths=(4,), depths=(0,))
    detector = Detector(config).eval()
    detectors.save(detector, tmp_path / "detector")
    examiners.save(examiners.build(TOY_EXAMINER), tmp_path / "examiner")
    pack.write_judges(
        tmp_path / "judges",
        detector=tmp_path / "detector",
        clip=parts["clip"],
        examiner=tmp_path / "examiner",
    )
    images = toys.photographs(4).images
    found = detectors.load(tmp_path / "judges" / "detector").probabilities(images)
    assert torch.equal(found, detector.probabilities(images))
    stored = load_file(tmp_path / "judges" / "clip" / "model.safetensors")
    assert stored["visual_projection.weight"].dtype == torch.float16
    features, expected = (
        clip.load(folder, tokenizer=parts["tokenizer"]).image_features(images)
        for folder in (tmp_path / "judges" / "clip", parts["clip"])
    )
    assert torch.allclose(features, expected, atol=5e-3)


def test_history_keeps_curves_and_records_of_finished_stages(tmp_path: Path) -> None:
    folders = {name: tmp_path / f"{name}-0123" for name in ("vae", "latents")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "done.json").write_text(json.dumps({"seconds": 5.0, "machine": {}}))
    (folders["vae"] / "metrics.jsonl").write_text('{"step": 1}\n')
    pack.write_history(tmp_path / "history", folders)
    names = sorted(path.name for path in (tmp_path / "history").iterdir())
    assert names == ["latents.json", "vae.json", "vae.jsonl"]
    (folders["latents"] / "done.json").unlink()
    with pytest.raises(PackRefused, match="not finished"):
        pack.write_history(tmp_path / "history", folders)
    assert sorted(path.name for path in (tmp_path / "history").iterdir()) == names


def test_publishing_replaces_the_old_pack_completely(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "starter" / "teacher"
    pack.publish(packed, target)
    pack.publish(packed, target)
    release.verify(target)
    assert [path.name for path in target.parent.iterdir()] == ["teacher"]

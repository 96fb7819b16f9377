"""Bundles of students: complete releases, refused when they do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from generation.engine import folding, quantization, release
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts.embeddings import unpack
from generation.engine.request import StoredEmbedding
from tests.generation.engine import toys

Stored = list[StoredEmbedding]


def test_a_student_becomes_a_self_contained_release(
    tmp_path: Path, tiny_release: Path, embeddings: Stored
) -> None:
    written = toys.write_student(
        tmp_path / "new" / "student", tiny_release, embeddings, evaluation={"fid": 1.5}
    )
    assert release.verify(tmp_path / "new" / "student") == written
    teacher = release.read(tiny_release)
    assert (written.kind, written.parent, written.name) == ("student", "tiny", "toy-student")
    assert (written.timesteps, written.guidance_scale) == ([999, 499], 1)
    assert (written.noise_scheduler, written.prediction_type) == ("ddim", "epsilon")
    assert written.encoder_fingerprint == teacher.encoder_fingerprint
    assert written.embedding_shape == teacher.embedding_shape
    assert (written.weight_dtype, written.quantization) == ("int8", "int8")
    assert written.covered_variants == list(toys.SLUGS)
    assert (written.recipe, written.evaluation) == ({"cut": "tiny"}, {"fid": 1.5})
    assert sorted(file.path for file in written.files) == [
        "prompt_embeds.safetensors",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["student"]


def test_the_files_match_the_format(tmp_path: Path, tiny_release: Path, embeddings: Stored) -> None:
    folder = tmp_path / "student"
    toys.write_student(folder, tiny_release, embeddings)
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    expected = quantization.quantise(folding.fold(toys.student_unet(), [999, 499]))
    assert {name: (t.dtype, t.shape) for name, t in unet.items()} == {
        name: (t.dtype, t.shape) for name, t in expected.items()
    }
    assert all(torch.equal(unet[name], expected[name]) for name in unet)
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    assert vae and all(name.startswith("decoder.") for name in vae)
    assert {tensor.dtype for tensor in vae.values()} == {torch.float16}
    assert json.loads((folder / "unet/config.json").read_text())["_class_name"] == (
        "FoldedUNet2DConditionModel"
    )
    assert json.loads((folder / "vae/config.json").read_text())["_class_name"] == "AutoencoderTiny"
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert scheduler["set_alpha_to_one"] is True
    with safe_open(folder / release.PROMPT_EMBEDS, framework="np") as stored:
        assert json.loads(stored.metadata()["texts"]) == list(toys.TEXTS)
        rows = stored.get_tensor("prompt_embeds")
    assert rows.dtype == "float16"
    for row, embedding in zip(rows, embeddings, strict=True):
        assert (row == unpack(embedding)).all()


def with_weight(name: str, value: float) -> torch.nn.Module:
    network = toys.student_unet() if name.startswith(("down", "time")) else toys.decoder()
    with torch.no_grad():
        network.get_parameter(name).view(-1)[0] = value
    return network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": ()}, "timesteps"),
        ({"timesteps": (499, 999)}, "timesteps must be descending"),
        ({"timesteps": (1000,)}, "timesteps must lie"),
        ({"name": "student"}, "name must be"),
        ({"slugs": ("a", "a", "b")}, "slugs"),
        ({"slugs": (), "texts": ()}, "slugs"),
        ({"texts": ("a", "b")}, "texts: 2 for 3"),
        ({"prompt_embeds": torch.zeros(3, 77, 32)}, "prompt_embeds must be float16"),
        ({"prompt_embeds": torch.zeros(3, 16, 32).half()}, r"float16 \(3, 77, 32\)"),
        ({"prompt_embeds": torch.full((3, 77, 32), torch.nan).half()}, "prompt_embeds has"),
        ({"scheduler_config": {"prediction_type": "v_prediction"}}, "prediction_type"),
        ({"decoder": lambda: toys.decoder(levels=3)}, "image_sizes"),
        ({"decoder": lambda: toys.decoder(latent_channels=16)}, "latent_channels"),
        (
            {"unet": lambda: with_weight("down_blocks.0.resnets.0.conv1.weight", torch.nan)},
            r"conv1\.weight has",
        ),
        (
            {"unet": lambda: with_weight("time_embedding.linear_1.weight", 1e9)},
            r"conv1\.bias has",
        ),
        (
            {"decoder": lambda: with_weight("decoder.layers.0.weight", 1e6)},
            r"vae: decoder\.layers\.0\.weight has",
        ),
    ],
)
def test_inconsistent_arguments_are_refused_and_leave_no_files(
    tmp_path: Path, tiny_release: Path, embeddings: Stored, changes: dict[str, Any], message: str
) -> None:
    made = {key: value() if callable(value) else value for key, value in changes.items()}
    with pytest.raises(ReleaseInvalid, match=message):
        toys.write_student(tmp_path / "student", tiny_release, embeddings, **made)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_replaced(
    tmp_path: Path, tiny_release: Path, embeddings: Stored
) -> None:
    (tmp_path / "student").mkdir()
    with pytest.raises(ReleaseInvalid, match="already exists"):
        toys.write_student(tmp_path / "student", tiny_release, embeddings)


def test_embeddings_of_another_width_are_refused_by_the_network(
    tmp_path: Path, tiny_release: Path, embeddings: Stored
) -> None:
    unet = toys.student_unet()
    unet.register_to_config(cross_attention_dim=48)
    with pytest.raises(ReleaseInvalid, match="cross_attention_dim"):
        toys.write_student(tmp_path / "student", tiny_release, embeddings, unet=unet)

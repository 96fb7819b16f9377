"""`manage.py generate`: images without servers or jobs."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from PIL import Image

from generation.engine.prompts import encoder
from generation.models import Embedding, Release
from generation.releases import lifecycle as releases
from tests import factories, tiny

pytestmark = pytest.mark.django_db


@pytest.fixture
def release(tmp_path: Path, settings) -> Release:
    settings.DEVICE = "cpu"
    settings.TORCH_THREADS = 1
    tiny.make_tiny_release(tmp_path / "made", name="tiny", guidance_scale=2)
    return releases.activate(releases.register(tmp_path / "made"))


@pytest.fixture
def slug(release: Release) -> str:
    """The slug of a variant that is encoded for the release."""
    variant = factories.make_variant(slug="red-vase", text="a red vase")
    stored = encoder.load(releases.folder(release)).encode([variant.text])[0]
    Embedding.objects.create(
        variant=variant,
        revision=variant.revision,
        text=variant.text,
        encoder_fingerprint=stored.encoder_fingerprint,
        data=stored.data,
        shape=list(stored.shape),
        dtype=stored.dtype,
        sha256=stored.sha256,
    )
    return variant.slug


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("generate", *arguments, stdout=output, stderr=StringIO())
    return output.getvalue()


def test_the_json_output_has_times_memory_and_files(slug: str, tmp_path: Path) -> None:
    arguments = ("--release", "tiny", "--variant", slug, "--seed", "7", "--count", "3")
    report = json.loads(run(*arguments, "--batch", "2", "--out", str(tmp_path / "out"), "--json"))
    assert (report["release"], report["variant"], report["text"]) == ("tiny", slug, "a red vase")
    assert (report["seed"], report["count"], report["batches"]) == (7, 3, [2, 1])
    assert report["num_inference_steps"] == 4
    assert report["device"].startswith("cpu")
    assert report["runtime"] == "torch"  # the runtime of a teacher
    for part in ("unet", "decoder", "file"):
        assert 0 < report[f"{part}_seconds_per_image"] < 10
    assert report["load_seconds"] > 0
    assert report["peak_memory_bytes"] > 100 * 2**20
    names = [Path(path).name for path in report["files"]]
    assert names == [f"red-vase-{seed}.webp" for seed in (7, 8, 9)]
    for path in report["files"]:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("WEBP", (64, 64))


def test_the_text_output_has_the_path_on_the_last_line(slug: str, tmp_path: Path) -> None:
    output = run("--variant", slug, "--seed", "7", "--out", str(tmp_path / "out"))
    for part in ("a red vase", "tiny", "load", "U-Net", "decoder", "peak memory"):
        assert part in output
    assert Path(output.splitlines()[-1]) == tmp_path / "out/red-vase-7.webp"
    assert Path(output.splitlines()[-1]).is_file()


def test_a_seed_gives_the_same_picture_in_any_batch(slug: str, tmp_path: Path) -> None:
    pictures = []
    for seed, count in ((8, 1), (7, 2)):
        out = tmp_path / str(count)
        arguments = ("--variant", slug, "--seed", str(seed), "--count", str(count))
        run(*arguments, "--format", "png", "--out", str(out))
        with Image.open(out / "red-vase-8.png") as image:
            pictures.append(np.asarray(image).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 8


def test_without_a_seed_a_new_one_is_drawn_and_reported(slug: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    seeds = {json.loads(run("--variant", slug, *out, "--json"))["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_an_unencoded_variant_is_an_error(release: Release) -> None:
    factories.make_variant(slug="blue-mug", text="a blue mug")
    with pytest.raises(CommandError, match="not encoded"):
        run("--variant", "blue-mug")


def test_an_unknown_variant_or_release_is_an_error(slug: str) -> None:
    with pytest.raises(CommandError, match="nobody"):
        run("--variant", "nobody")
    with pytest.raises(CommandError, match="no release 'other'"):
        run("--variant", slug, "--release", "other")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--count", "0"), ("--batch", "0"), ("--seed", "-1"), ("--seed", "4294967296")],
)
def test_numbers_out_of_range_are_refused(slug: str, option: str, value: str) -> None:
    with pytest.raises(CommandError, match=option):
        run("--variant", slug, option, value)


def test_an_output_folder_that_is_a_file_is_an_error(slug: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CommandError, match="Give another --out"):
        run("--variant", slug, "--out", str(tmp_path / "file"))


def test_an_altered_release_is_not_used(slug: str, release: Release) -> None:
    path = releases.folder(release) / "unet/config.json"
    path.write_text(path.read_text().replace("silu", "gelu"))
    with pytest.raises(CommandError, match="changed"):
        run("--variant", slug)

"""Embeddings included in a student: the variants they are stored for, and refused files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from generation.catalogue import bundled_embeddings, encoding
from generation.catalogue import variants as catalogue
from generation.engine import release
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import encoder
from generation.engine.release import PROMPT_EMBEDS
from generation.errors import ReleaseRefused
from generation.models import Embedding, PromptVariant, Release
from generation.releases import lifecycle as releases
from generation.releases import registration
from tests import tiny
from tests.factories import make_variant
from tests.generation.students import make_bundle

pytestmark = pytest.mark.django_db

PROMPTS = {"vase": "a red vase", "mug": "a blue mug", "bowl": "a white bowl"}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """The folder of a teacher that is not registered, so that no text encoder is in use."""
    tiny.make_tiny_release(tmp_path / "teacher", name="teacher-1")
    return tmp_path / "teacher"


@pytest.fixture
def student(tmp_path: Path, teacher: Path) -> Path:
    make_bundle(tmp_path / "student", teacher, PROMPTS)
    return tmp_path / "student"


def register(folder: str) -> Release:
    """As `manage.py release register` does."""
    registered = registration.register(folder)
    bundled_embeddings.store(registered)
    return registered


def encoded() -> set[str]:
    return set(Embedding.objects.filter(error="").values_list("variant__slug", flat=True))


def test_registering_stores_exactly_the_embeddings_of_the_encoder(
    student: Path, teacher: Path
) -> None:
    for slug, text in PROMPTS.items():
        make_variant(slug=slug, text=text)
    with capture_logs() as logs:
        register(str(student))

    expected = encoder.load(teacher).encode(list(PROMPTS.values()))
    for (slug, text), stored in zip(PROMPTS.items(), expected, strict=True):
        row = Embedding.objects.get(variant__slug=slug)
        assert row.stored() == stored
        assert row.text == text
    entries = [log for log in logs if log["event"] == "embeddings_taken_from_release"]
    assert [(log["release"], log["stored"]) for log in entries] == [("student-1", 3)]
    assert catalogue.count_states()["encoded"] == 3


def test_only_a_variant_of_the_same_slug_and_text_gets_the_embedding(student: Path) -> None:
    make_variant(slug="vase", text="A  RED vase")  # the same text after normalisation
    make_variant(slug="mug", text="a green mug")
    make_variant(slug="cup", text="a white bowl")
    make_variant(slug="bowl", text="a white bowl on it", status="draft")
    registered = register(str(student))
    assert encoded() == {"vase"}
    assert bundled_embeddings.store(registered) == 0


def test_an_existing_embedding_is_kept_and_a_failed_one_is_replaced_in_place(
    student: Path, teacher: Path
) -> None:
    vase = make_variant(slug="vase", text="a red vase")
    make_variant(slug="mug", text="a blue mug")
    register(str(student))
    before = dict(Embedding.objects.values_list("variant__slug", "pk"))
    assert Embedding.objects.get(variant=vase).error == ""
    Embedding.objects.filter(variant__slug="mug").update(data=None, error=catalogue.ENCODE_AGAIN)
    Embedding.objects.filter(variant=vase).update(sha256="0" * 64)

    assert bundled_embeddings.store_missing() == 1

    assert dict(Embedding.objects.values_list("variant__slug", "pk")) == before
    assert encoded() == {"vase", "mug"}
    assert Embedding.objects.get(variant=vase).sha256 == "0" * 64


def test_variants_added_later_get_bundled_embeddings_from_the_encode_worker(
    student: Path, redis_server
) -> None:
    register(str(student))
    make_variant(slug="vase", text="a red vase")
    make_variant(slug="new", text="a black cube")

    assert encoding.encode_missing() == 0

    states = {
        row.slug: (row.embedding_state, row.embedding_reason)
        for row in catalogue.with_states(PromptVariant.objects.all())
    }
    assert states["vase"] == ("encoded", None)
    assert states["new"][0] == "failed"
    assert "Register the teacher" in states["new"][1]


def test_an_encoder_registered_later_encodes_the_rest(
    student: Path, teacher: Path, redis_server
) -> None:
    register(str(student))
    make_variant(slug="new", text="a black cube")
    encoding.encode_missing()
    assert encoded() == set()
    encoding._encoders.clear()
    register(str(teacher))
    assert encoding.encode_missing() == 0
    assert encoded() == {"new"}


def test_rejected_releases_provide_no_embeddings(student: Path) -> None:
    releases.reject(register(str(student)))
    make_variant(slug="vase", text="a red vase")
    assert bundled_embeddings.store_missing() == 0


def test_a_file_that_changed_after_registering_is_not_used(student: Path) -> None:
    registered = register(str(student))
    path = releases.folder(registered) / PROMPT_EMBEDS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    make_variant(slug="vase", text="a red vase")
    with pytest.raises(ReleaseInvalid, match=r"differs from the file in release\.json"):
        bundled_embeddings.store(registered)
    with capture_logs() as logs:
        assert bundled_embeddings.store_missing() == 0
    assert "embeddings_unreadable" in {log["event"] for log in logs}
    path.unlink()
    with pytest.raises(ReleaseInvalid, match="cannot be read"):
        bundled_embeddings.store(registered)


def _header(path: Path, change) -> None:
    """Rewrite the safetensors header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: header.pop("__metadata__"), "prompt_embeds or the texts are missing"),
        (
            lambda header: header["__metadata__"].update(texts='["a red vase"]'),
            "release.json needs",
        ),
        (lambda header: header["__metadata__"].update(texts="[1, 2, 3]"), "release.json needs"),
        (lambda header: header["prompt_embeds"].update(dtype="BF16"), "release.json needs F16"),
        (
            lambda header: header.update(other=header.pop("prompt_embeds")),
            "prompt_embeds or the texts are missing",
        ),
    ],
)
def test_a_bundle_whose_file_contradicts_its_manifest_is_refused_by_name(
    student: Path, change, words: str
) -> None:
    _header(student / PROMPT_EMBEDS, change)
    manifest = release.read(student)
    release.write(student, replace(manifest, files=release.list_files(student)))
    make_variant(slug="vase", text="a red vase")
    with pytest.raises(ReleaseRefused, match=rf"{PROMPT_EMBEDS}.*{words}"):
        register(str(student))
    assert not Release.objects.exists()


@pytest.mark.parametrize("value", [0x7E00, 0x7C00, 0xFC00])  # NaN, infinity, -infinity in fp16
def test_a_bundle_with_an_embedding_that_is_not_finite_is_refused(
    student: Path, value: int
) -> None:
    path = student / PROMPT_EMBEDS
    path.write_bytes(path.read_bytes()[:-2] + value.to_bytes(2, "little"))
    manifest = release.read(student)
    release.write(student, replace(manifest, files=release.list_files(student)))
    with pytest.raises(ReleaseRefused, match="the embedding of bowl has values that are not"):
        register(str(student))
    assert not Release.objects.exists()


def test_a_release_without_bundled_embeddings_provides_none(teacher: Path) -> None:
    make_variant(slug="vase", text="a red vase")
    registered = register(str(teacher))
    assert bundled_embeddings.store(registered) == 0
    assert Release.objects.count() == 1

"""Words that the starter's text encoder does not know, in the catalogue's admin, import and command."""

import io
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from generation.catalogue.unknown_words import Vocabulary
from generation.models import PromptVariant
from tests.factories import make_embedding, make_release, make_user, make_variant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("encoder")]

STARTER = Path(settings.BASE_DIR) / "generation" / "starter" / "teacher"
MESSAGE = "The text encoder does not know “elephant”"


@pytest.fixture
def encoder() -> None:
    """A release in use with the starter's tokenizer."""
    make_release(name="with-encoder", has_encoder=True, path=str(STARTER))


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(page: str, *args: object) -> str:
    return reverse(f"admin:generation_promptvariant_{page}", args=args)


def words(answer) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", answer.content.decode()).split())


def test_words_that_the_tokenizer_splits_are_unknown():
    vocabulary = Vocabulary()
    assert vocabulary.unknown("A red glass VASE, on the wooden table") == []
    assert vocabulary.unknown("an elephant and a Giraffe, an elephant") == ["elephant", "giraffe"]
    assert vocabulary.unknown("…") == []
    assert vocabulary.count(["an elephant", "a vase", "a red elephant"]) == {"elephant": 2}


def test_the_last_word_of_a_typed_text_is_reported_when_it_begins_no_known_word():
    def typed(text: str) -> list[str]:
        return Vocabulary().unknown(text, is_typed=True)

    for text in ("a re", "a red va", "a red vase", "a RED vas", ""):
        assert typed(text) == [], text
    assert typed("a red eleph") == ["eleph"]
    assert typed("a red vas ") == typed("a red vas,") == ["vas"]
    assert typed("an elephant on a woo") == ["elephant"]


def test_without_an_encoder_no_word_is_reported_as_unknown():
    PromptVariant.objects.all().delete()
    from generation.models import Release

    Release.objects.all().delete()
    assert Vocabulary().unknown("an elephant") == []


def test_unknown_words_are_reported_to_the_editor_and_marked_in_the_list(admin):
    given = {"text": "a red elephant", "slug": "", "tags": "", "status": "active", "notes": ""}
    answer = admin.post(url("add"), given, follow=True)
    assert MESSAGE in words(answer)
    variant = PromptVariant.objects.get()
    make_embedding(variant=variant)
    make_embedding(variant=make_variant(text="a red vase"))
    assert MESSAGE in words(admin.get(url("change", variant.pk)))
    page = words(admin.get(url("changelist")))
    assert page.count(MESSAGE) == 1 and "unknown words" in page
    found = words(admin.get(url("changelist"), {"unknown": "yes"}))
    assert "a red elephant" in found and "a red vase" not in found
    found = words(admin.get(url("changelist"), {"unknown": "no"}))
    assert "a red elephant" not in found and "a red vase" in found


def test_unknown_words_are_shown_while_a_prompt_is_typed(admin):
    page = admin.get(url("add")).content.decode()
    assert f'hx-get="{url("unknown")}"' in page
    assert re.search(r'<p id="unknown-words"[^>]* aria-live="polite"></p>', page)
    as_script = {"HX-Request": "true"}
    answer = admin.get(url("unknown"), {"text": "a <b> elephant"}, headers=as_script)
    assert answer.content.decode().startswith(MESSAGE)
    assert "<" not in answer.content.decode()
    for text in ("a red va", "", " "):
        assert admin.get(url("unknown"), {"text": text}, headers=as_script).content == b""
    assert admin.get(url("unknown"))["Location"] == url("add")
    stranger = Client()
    stranger.force_login(make_user(username="stranger", is_staff=True))
    assert stranger.get(url("unknown"), headers=as_script).status_code == 403


def test_an_import_names_unknown_words_before_it_is_confirmed(admin):
    file = io.BytesIO(b"text\na red elephant\na red vase\n")
    file.name = "new.csv"
    page = admin.post(url("import"), {"import_file": file, "format": "0"})
    assert MESSAGE in words(page) and not PromptVariant.objects.exists()


def test_the_command_names_unknown_words(tmp_path, capsys):
    (tmp_path / "new.csv").write_text("text\na red elephant\na red vase\n")
    call_command("catalogue", "import", str(tmp_path / "new.csv"))
    assert MESSAGE in capsys.readouterr().out

"""Tokens of a text, counted without the text encoder."""

import subprocess
import sys
from pathlib import Path

import pytest

from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import tokens


def test_the_start_and_end_tokens_are_counted(tiny_release: Path) -> None:
    assert tokens.count_tokens(tiny_release, "") == 2
    assert tokens.count_tokens(tiny_release, "red") == 3


def test_a_long_text_is_counted_to_its_end(tiny_release: Path) -> None:
    assert tokens.count_tokens(tiny_release, "red " * 200) == 202
    assert tokens.limit(tiny_release) == 77


def test_the_count_equals_that_of_the_models_own_tokenizer(tiny_release: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_release / "tokenizer")
    for text in (
        "a red glass vase",
        "Zwölf Boxkämpfer, 12!",
        "  spaces   and\ttabs ",
        "ORANGE-clay",
    ):
        assert tokens.load_tokenizer(tiny_release).encode(text).ids == tokenizer(text).input_ids


def test_padding_is_the_token_that_the_tokenizer_names(tiny_release: Path) -> None:
    assert tokens.load_tokenizer(tiny_release).id_to_token(tokens.pad_token_id(tiny_release)) == (
        "<|endoftext|>"
    )


def test_a_release_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseInvalid, match="no tokenizer"):
        tokens.count_tokens(tmp_path, "red")


def test_counting_loads_no_tensors(tiny_release: Path) -> None:
    code = (
        "import sys; from generation.engine import files, release; from generation.engine.prompts import tokens\n"
        f"assert tokens.count_tokens({str(tiny_release)!r}, 'a red vase') == 5\n"
        f"release.verify({str(tiny_release)!r})\n"
        "loaded = {'torch', 'transformers', 'diffusers'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPTokenizer

from distillation.starter import tokenizer as module
from distillation.starter.captions import captions, phrases
from distillation.starter.words import ATTRIBUTES, COMBINATIONS

TEXTS = [text for combination in COMBINATIONS for text in captions(combination)]
TEXTS += [text for a, words in ATTRIBUTES.items() for w in words for text in phrases(a, w)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    module.train(folder, TEXTS)
    return folder


def test_every_word_of_the_grammar_is_one_token(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.split()) + 2 <= tokenizer.model_max_length == 16
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_any_text_is_encoded_and_decoded_without_loss(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for text in ("zwölf gläser", "東京 🍵", "x-ray 42!", "don't"):
        ids = tokenizer(text).input_ids
        assert tokenizer.eos_token_id not in ids[1:-1]  # the end token is also the unknown token
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")


def test_case_and_space_do_not_matter(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert tokenizer("A  Red\nvase").input_ids == tokenizer("a red vase").input_ids


def test_the_special_tokens_are_the_last_two_and_the_ids_have_no_gap(folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocab.values()) == list(range(len(vocab)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(vocab) - 2, len(vocab) - 1)
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == len(vocab)


def test_both_layouts_of_the_tokenizer_give_the_same_ids(folder: Path) -> None:
    fast = CLIPTokenizer.from_pretrained(folder)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    merges = (folder / "merges.txt").read_text().splitlines()
    assert merges[0].startswith("#version")
    plain = CLIPTokenizer(
        vocab=json.loads((folder / "vocab.json").read_text()),
        merges=[tuple(line.split()) for line in merges[1:]],
    )
    for text in (TEXTS[0], "an unheard-of Thing"):
        assert alone.encode(text).ids == fast(text).input_ids == plain(text).input_ids


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts(
    folder: Path, tmp_path: Path
) -> None:
    module.train(tmp_path, reversed(TEXTS))
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_texts_without_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a word of two letters or more"):
        module.train(tmp_path, ["  "])

"""Train the byte-pair vocabulary of the starter's CLIP, in the layout of CLIPTokenizer (openai/CLIP).

Byte-pair encoding: Sennrich et al. 2016, arXiv 1508.07909.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from distillation.resumable import atomic

START, END = "<|startoftext|>", "<|endoftext|>"
MODEL_MAX_LENGTH = 16  # tokens, including the start and end tokens
END_OF_WORD = "</w>"
MAX_TOKENS = 49_408  # size of CLIP's vocabulary; the captions need far fewer

Merge = tuple[str, str]


def train(folder: Path, texts: Iterable[str]) -> CLIPTokenizer:
    """Write and return a tokenizer in which every word of the texts is one token; it can encode any text.

    Files: vocab.json, merges.txt, tokenizer.json, tokenizer_config.json, special_tokens_map.json. Raises ValueError if
    the texts have no word of two letters.
    """
    # The 256 printable characters that represent bytes, by code point as in CLIP's vocabulary.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(texts)
    tokens = [*alphabet, *(byte + END_OF_WORD for byte in alphabet)]
    tokens += [left + right for left, right in merges]
    # Two merges may produce the same token; dict.fromkeys keeps the first.
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MODEL_MAX_LENGTH)

    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": MODEL_MAX_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
        **special,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_file(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    atomic.write_file(folder / "merges.txt", "\n".join(lines) + "\n")
    atomic.write_file(
        folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=True) + "\n"
    )
    atomic.write_file(folder / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    atomic.write_file(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    return tokenizer


def _merges(texts: Iterable[str]) -> list[Merge]:
    """Return the merges that make each word of the texts one token. Text is normalised and split as in CLIP."""
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_TOKENS,
        min_frequency=1,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    if not merges:
        raise ValueError("A vocabulary needs texts with a word of two letters or more.")
    return [(left, right) for left, right in merges]

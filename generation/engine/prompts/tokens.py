"""Token counts of texts for the web process: needs `tokenizers`, not torch."""

import functools
import json
from pathlib import Path

from tokenizers import Tokenizer

from generation.engine.errors import ReleaseInvalid


def count_tokens(release_dir: Path, text: str) -> int:
    """Return the number of tokens of `text` with start and end marker. Raises ReleaseInvalid."""
    return len(load_tokenizer(release_dir).encode(text).ids)


def begins_a_token(release_dir: Path, text: str) -> bool:
    """Return whether a token of the vocabulary begins with `text`. Raises ReleaseInvalid."""
    return any(token.startswith(text) for token in load_tokenizer(release_dir).get_vocab())


def limit(release_dir: Path) -> int:
    """Return the maximum number of tokens without truncation, with both markers. Raises ReleaseInvalid."""
    config = _json(Path(release_dir) / "text_encoder" / "config.json")
    return int(config.get("max_position_embeddings", 77))


def load_tokenizer(release_dir: Path) -> Tokenizer:
    """Return the tokenizer, without truncation and padding. Shared between callers: do not modify it."""
    path = Path(release_dir) / "tokenizer" / "tokenizer.json"
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ReleaseInvalid(
            f"{path} is missing: the release has no tokenizer. Use a release with its encoder."
        ) from error


def pad_token(release_dir: Path) -> str:
    """Return the token that pads a text to `limit`. Raises ReleaseInvalid."""
    config = _json(Path(release_dir) / "tokenizer" / "tokenizer_config.json")
    token = config.get("pad_token") or config.get("eos_token") or "<|endoftext|>"
    return token["content"] if isinstance(token, dict) else token


def pad_token_id(release_dir: Path) -> int:
    """Return the id of `pad_token`. Raises ReleaseInvalid."""
    content = pad_token(release_dir)
    token_id = load_tokenizer(release_dir).token_to_id(content)
    if token_id is None:
        raise ReleaseInvalid(
            f"{release_dir}: the padding token {content!r} is not in the vocabulary."
        )
    return token_id


@functools.lru_cache(maxsize=4)
def _load(path: Path, changed_at: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseInvalid(f"{path} cannot be read: {error}.") from error

"""How often texts are matched to the right prompt variant, by threshold: the basis of MATCH_THRESHOLD.

python -m tests.bench.matching        # the starter's text encoder and catalogue; two minutes

Texts that mean a variant in other words, and texts that mean none, are compared with the catalogue as the encode worker
does: by vectors alone, and with the objections of `generation.catalogue.objections`. All are normalised.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillation.starter.captions import GROUND_PHRASES, captions, catalogue
from distillation.starter.words import ATTRIBUTES, COMBINATIONS, Combination
from generation.catalogue import objections
from generation.engine import device
from generation.engine.prompts import encoder
from generation.engine.prompts.text_vectors import TextVectors

TEACHER = Path(__file__).resolve().parents[2] / "generation" / "starter" / "teacher"
THRESHOLDS = (0.90, 0.95, 0.96, 0.97, 0.98)
SEED = 1
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPOS = 3  # of each variant


@dataclass(frozen=True)
class Query:
    """A query of one kind. means: index in the catalogue of the variant that it means; None if it means no variant."""

    kind: str
    text: str
    means: int | None


# --- texts ----------------------------------------------------------------------------------------
def rewordings(variants: Sequence[Combination]) -> Iterator[Query]:
    """Yield texts that mean a variant."""
    chance = random.Random(SEED)
    for place, variant in enumerate(variants):
        colour, material, thing = variant.colour, variant.material, variant.object
        ground, article = GROUND_PHRASES[variant.ground], _article(variant.colour)
        bare = ground.removeprefix("a ")
        own = captions(variant)
        for text in own[1:]:
            yield Query("captions that the encoder was trained on", text, place)
        for text in (
            f"the {colour} {material} {thing} on the {bare}",
            f"{colour} {material} {thing} on {bare}",
        ):
            yield Query("other articles, or none", text, place)
        for text in (
            f"on {ground} {article} {colour} {material} {thing}",
            f"a {material} {thing}, {colour}, on {ground}",
            f"{bare}, {colour} {material} {thing}",
        ):
            yield Query("another order of words", text, place)
        for text in (f"{own[0]}!", f"{own[4].replace(' with', ', with')}."):
            yield Query("punctuation", text, place)
        words = own[0].split()
        for _ in range(TYPOS):
            spoilt = chance.choice([at for at, word in enumerate(words) if len(word) > 2])
            text = " ".join(
                _typo(word, chance) if at == spoilt else word for at, word in enumerate(words)
            )
            yield Query("a typing error", text, place)
        yield Query("plural", f"{colour} {material} {thing}s on {ground}", place)


def texts_of_no_variant(variants: Sequence[Combination]) -> Iterator[Query]:
    """Yield texts that mean no variant."""
    chance = random.Random(SEED)
    known = {captions(variant)[0] for variant in variants}
    for variant in variants:
        colour, material, thing = variant.colour, variant.material, variant.object
        ground, article = GROUND_PHRASES[variant.ground], _article(variant.colour)
        for other in GROUND_PHRASES:
            elsewhere = captions(Combination(thing, colour, material, other))
            if elsewhere[0] not in known:
                for text in (elsewhere[0], chance.choice(elsewhere[1:])):
                    yield Query("a known ground that this variant has not", text, None)
        texts = {
            "an unknown colour": [
                f"a {word} {material} {thing} on {ground}" for word in ("pink", "grey", "gold")
            ],
            "an unknown object": [
                f"{article} {colour} {material} {word} on {ground}"
                for word in ("jug", "dog", "lamp", "hat")
            ],
            "an unknown material": [
                f"{article} {colour} {word} {thing} on {ground}" for word in ("stone", "wax")
            ],
            "an unknown ground": [
                f"{article} {colour} {material} {thing} on {word}" for word in ("a bed", "sand")
            ],
            "a negation": [
                f"not {article} {colour} {material} {thing} on {ground}",
                f"no {colour} {material} {thing} on {ground}",
                f"{ground} without {article} {colour} {material} {thing}",
            ],
            "another place": [
                f"{article} {colour} {material} {thing} {word} {ground}" for word in ("under", "by")
            ],
            "something more": [
                f"a {word} {colour} {material} {thing} on {ground}" for word in ("big", "wet")
            ]
            + [f"two {colour} {material} {thing}s on {ground}"],
            "a second colour, material or object": [
                f"{article} {colour} and {_other('colour', colour, chance)} {material} {thing} on {ground}",
                f"{article} {colour} {material} and {_other('material', material, chance)} {thing} on {ground}",
                f"{article} {colour} {material} {thing} and a {_other('object', thing, chance)} on {ground}",
            ],
        }
        for kind, of_kind in texts.items():
            for text in of_kind:
                yield Query(kind, text, None)


def _typo(word: str, chance: random.Random) -> str:
    """Return the word with a letter left out, doubled, swapped with the next or replaced; not the first."""
    at = chance.randrange(1, len(word) - 1)
    return chance.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + chance.choice(LETTERS) + word[at + 1 :],
        )
    )


def _other(attribute: str, word: str, chance: random.Random) -> str:
    return chance.choice([other for other in ATTRIBUTES[attribute] if other != word])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# --- comparing ------------------------------------------------------------------------------------
class Catalogue:
    """Texts as the encode worker holds them."""

    def __init__(self, texts: Sequence[str], vectors: TextVectors) -> None:
        self.texts = texts
        self._vectors = vectors
        self._matrix = np.stack([vectors.encode(text) for text in texts])
        self._vocabulary = {word for text in texts for word in objections.words(text)}

    def nearest(self, text: str) -> tuple[int, float, str]:
        """Return index and score of the nearest text, and the objection, as `generation.catalogue.nearest` does."""
        ways = (text, objections.plain(text))
        scores = np.max([self._matrix @ self._vectors.encode(way) for way in ways], axis=0)
        place = int(scores.argmax())
        objection = "too long" * (self._vectors.count(text) > self._vectors.max_tokens)
        objection = objection or objections.objection(
            text,
            self.texts[place],
            vocabulary=self._vocabulary,
            is_split=self._vectors.is_split,
        )
        return place, float(scores[place]), objection


def table(title: str, queries: Sequence[Query], held: Catalogue) -> None:
    """Print a line for each kind; for each threshold right / wrong by vectors alone → right / wrong with objections."""
    print(f"\n{title}\n")
    heads = " | ".join(f"{threshold:.2f}" for threshold in THRESHOLDS)
    print(f"| text | asked | {heads} |\n|---|---|{'---|' * len(THRESHOLDS)}")
    known = set(held.texts)
    kinds = list(dict.fromkeys(one.kind for one in queries))
    totals = np.zeros((len(THRESHOLDS), 4), int)
    for kind in kinds:
        of_kind = [one for one in queries if one.kind == kind and one.text not in known]
        counts = np.zeros((len(THRESHOLDS), 4), int)
        for one in of_kind:
            place, score, objection = held.nearest(one.text)
            is_wrong = int(place != one.means)
            for row, threshold in enumerate(THRESHOLDS):
                counts[row, is_wrong] += score >= threshold
                counts[row, 2 + is_wrong] += score >= threshold and not objection
        totals += counts
        _line(kind, len(of_kind), counts)
    _line("all", len([one for one in queries if one.text not in known]), totals)


def _line(kind: str, queries: int, counts: np.ndarray) -> None:
    cells = " | ".join(f"{a}/{b} → {c}/{d}" for a, b, c, d in counts.tolist())
    print(f"| {kind} | {queries} | {cells} |", flush=True)


def unknown_words(vectors: TextVectors, seeds: int = 6) -> None:
    """Print matches of words that the encoder knows but the catalogue lacks: only the vectors decide on them."""
    print(
        "\nA catalogue without some words: queries with these words (wrong matches) and rewordings of its texts:\n"
    )
    heads = " | ".join(f"{threshold:.2f}" for threshold in THRESHOLDS)
    print(f"| asked for | asked | {heads} |\n|---|---|{'---|' * len(THRESHOLDS)}")
    counts: dict[str, np.ndarray] = {}
    for seed in range(seeds):
        chance = random.Random(seed)
        without = {
            name: set(chance.sample(words, 2 if len(words) > 4 else 1))
            for name, words in ATTRIBUTES.items()
        }
        lacks = {
            one: [name for name, words in without.items() if getattr(one, name) in words]
            for one in COMBINATIONS
        }
        kept = [one for one in COMBINATIONS if not lacks[one]]
        held = Catalogue([captions(one)[0] for one in kept], vectors)
        for one in COMBINATIONS:
            if len(lacks[one]) > 1:
                continue
            kind = f"another {lacks[one][0]}" if lacks[one] else "a variant in other words"
            for text in captions(one)[1:5:3]:
                place, score, objection = held.nearest(text)
                is_match = (
                    score >= np.array(THRESHOLDS) if not objection else np.zeros(len(THRESHOLDS))
                )
                known = counts.setdefault(kind, np.zeros(1 + len(THRESHOLDS), int))
                known += np.array([1, *is_match], int)
                if not lacks[one] and kept[place] != one and is_match.any():
                    print(f"wrong: {text} → {held.texts[place]}")
    for kind, found in sorted(counts.items()):
        print(f"| {kind} | {' | '.join(map(str, found.tolist()))} |", flush=True)


def main() -> int:
    device.choose("cpu", "float32", threads=1)
    vectors = TextVectors(encoder.load(TEACHER), TEACHER)
    variants = catalogue()
    held = Catalogue([captions(variant)[0] for variant in variants], vectors)
    print("Each cell: right / wrong by vectors alone → right / wrong when the words may object.")
    table("Texts that mean a variant", list(rewordings(variants)), held)
    table("Texts that mean none", list(texts_of_no_variant(variants)), held)
    unknown_words(vectors)
    return 0


if __name__ == "__main__":
    sys.exit(main())

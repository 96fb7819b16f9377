"""Captions of combinations, and the catalogue of the starter."""

import csv
import io
from pathlib import Path

from distillation.resumable import atomic
from distillation.starter.words import COLOURS, GROUNDS, MATERIALS, OBJECTS, Combination

GROUND_PHRASES = {"table": "a wooden table", "slab": "a marble slab", "cloth": "a linen cloth"}
COLUMNS = ("slug", "text", "tags", "status", "notes")

# {a}, {A}: the article before the colour, and before the material or the object.
TEMPLATES = (
    "{a} {colour} {material} {object} on {ground}",  # the canonical one
    "a photo of {a} {colour} {material} {object} on {ground}",
    "photo of {A} {object} of {colour} {material} on {ground}",
    "{A} {material} {object} in {colour} on {ground}",
    "{ground} with {a} {colour} {material} {object}",
    "{a} {colour} {object} made of {material} on {ground}",
    "a still life with {a} {colour} {material} {object} on {ground}",
)
# Captions of one attribute alone.
PHRASES = {
    "object": ("a {word}", "a photo of a {word}", "a still life with a {word}"),
    "colour": ("{word}", "something {word}", "a photo of something {word}"),
    "material": ("{word}", "something made of {word}", "a photo of something of {word}"),
    "ground": ("on {word}", "a photo of something on {word}", "{word}"),
}


def captions(combination: Combination) -> tuple[str, ...]:
    """Return all phrasings of the combination, each of at most 12 words; the first is the canonical one."""
    return tuple(
        template.format(
            a=_article(combination.colour),
            A="a",  # no object or material begins with a vowel
            colour=combination.colour,
            material=combination.material,
            object=combination.object,
            ground=GROUND_PHRASES[combination.ground],
        )
        for template in TEMPLATES
    )


def phrases(attribute: str, word: str) -> tuple[str, ...]:
    """Return captions of an image of which only one attribute is known."""
    return tuple(
        template.format(word=GROUND_PHRASES.get(word, word)) for template in PHRASES[attribute]
    )


def catalogue() -> tuple[Combination, ...]:
    """Return the combinations with a prompt variant: objects × colours × materials, each with one of the grounds."""
    return tuple(
        Combination(
            object=thing,
            colour=colour,
            material=material,
            # Starts with the cloth; the next object, colour or material has the next ground.
            ground=GROUNDS[(o + c + m + 2) % len(GROUNDS)],
        )
        for o, thing in enumerate(OBJECTS)
        for c, colour in enumerate(COLOURS)
        for m, material in enumerate(MATERIALS)
    )


def write_catalogue(path: Path) -> None:
    """Write the CSV file for `manage.py catalogue import`, atomically: one canonical caption per row."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for combination in catalogue():
        tags = (combination.object, combination.colour, combination.material, combination.ground)
        writer.writerow((combination.slug, captions(combination)[0], ",".join(tags), "active", ""))
    atomic.write_file(path, file.getvalue())


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"

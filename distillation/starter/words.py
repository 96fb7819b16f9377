"""Vocabulary of the starter: attributes of a still life and their words, in the order of the detector's bits.

A combination is an object, a colour, a material and a ground: 8 × 8 × 4 × 3 = 768. About a tenth is held out: their
photographs are used in no training, so that pictures of them measure generalisation.
"""

import hashlib
from dataclasses import astuple, dataclass
from itertools import product

OBJECTS = ("vase", "bowl", "mug", "bottle", "ball", "cube", "cone", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
MATERIALS = ("clay", "glass", "metal", "plastic")
GROUNDS = ("table", "slab", "cloth")

ATTRIBUTES = {"object": OBJECTS, "colour": COLOURS, "material": MATERIALS, "ground": GROUNDS}
BITS = tuple(word for words in ATTRIBUTES.values() for word in words)  # 23 of them

HELD_OUT_OF_EACH_OBJECT = 10  # of 96 combinations


@dataclass(frozen=True, order=True)
class Combination:
    """A word of each attribute; the fields are named by the attributes."""

    object: str
    colour: str
    material: str
    ground: str

    @property
    def bits(self) -> tuple[bool, ...]:
        """The bits in the order of BITS; one of each attribute is set."""
        words = astuple(self)
        return tuple(
            word == chosen
            for chosen, attribute in zip(words, ATTRIBUTES.values(), strict=True)
            for word in attribute
        )

    @property
    def slug(self) -> str:
        return f"{self.colour}-{self.material}-{self.object}-{self.ground}"


COMBINATIONS = tuple(Combination(*words) for words in product(*ATTRIBUTES.values()))
NUMBERS = {combination: number for number, combination in enumerate(COMBINATIONS)}


def _rank(combination: Combination) -> str:
    return hashlib.sha256(combination.slug.encode()).hexdigest()


# Chosen by a hash, the same number for each object.
HELD_OUT = frozenset(
    combination
    for word in OBJECTS
    for combination in sorted((c for c in COMBINATIONS if c.object == word), key=_rank)[
        :HELD_OUT_OF_EACH_OBJECT
    ]
)
TRAINED = tuple(combination for combination in COMBINATIONS if combination not in HELD_OUT)

"""Form of the page: values as typed, validation, and submission of the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.functional import cached_property
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from generation.api.serializers import JobRequestSerializer, Strict
from generation.errors import GenerationError, InvalidRequest
from generation.jobs import submission
from generation.models import Job, Release
from generation.page import choices
from generation.page.choices import Found, Offers
from generation.page.responses import read

PROMPT = "prompt"  # text and variant are one field to a person
OPTIONS = ("n", "seed", "size", "output_format", "model")


def _typed() -> serializers.CharField:
    return serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)


class SearchForm(Strict):
    """Query of the list of prompt variants."""

    text = _typed()
    variant = _typed()
    tag = serializers.ListField(child=serializers.CharField(), required=False)


class WishForm(SearchForm):
    """looked: the text that the list was shown for; look: the button that updates the list."""

    looked = _typed()
    look = _typed()
    n = _typed()
    seed = _typed()
    size = _typed()
    output_format = _typed()
    model = _typed()
    csrfmiddlewaretoken = serializers.CharField(required=False)


@dataclass(frozen=True)
class Wish:
    """Values of the form. text, variant, tags: the prompt; options: by name, as typed."""

    text: str = ""
    variant: str = ""
    tags: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> "Wish":
        """Return the wish of a form validated by WishForm or SearchForm."""
        text, variant = form.get("text", ""), form.get("variant", "")
        if form.get("looked", text) != text:
            variant = ""  # the text was changed after the selection
        options = {name: form[name].strip() for name in OPTIONS if form.get(name, "").strip()}
        return cls(text, variant, form.get("tag", ()), options)


@dataclass(frozen=True)
class Faults:
    """Errors of a form. of: messages by field, "" = of no field; nearest: similar variants."""

    of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nearest: Sequence[Mapping[str, Any]] = ()

    @property
    def general(self) -> Sequence[str]:
        return self.of.get("", ())

    @property
    def said(self) -> str:
        """Return all messages as one text."""
        return " ".join(said for messages in self.of.values() for said in messages)


def submit(owner: Any, wish: Wish) -> Job | Faults:
    """Submit the job."""
    try:
        asked = read(JobRequestSerializer, {**wish.options, **_prompt(wish)})
        return submission.submit(owner, via=Job.Via.PAGE, **asked)
    except ValidationError as error:
        detail: Any = error.detail
        return Faults({name: [str(said) for said in detail[name]] for name in detail})
    except GenerationError as error:
        return _faults(error)


def _prompt(wish: Wish) -> dict[str, str]:
    if wish.variant:
        return {"variant": wish.variant}
    if wish.text.strip():
        return {"text": wish.text}
    raise InvalidRequest("Choose a prompt from the list, or write one.", parameter=PROMPT)


def _faults(error: GenerationError) -> Faults:
    name = error.parameter or ""
    if name in ("variant", "text"):
        name = PROMPT
    elif name not in (PROMPT, *OPTIONS):
        name = ""
    said = [error.detail]
    if error.retryable:
        seconds = f" in {error.retry_after} s" if error.retry_after else " in a moment"
        said.append(f"Try again{seconds}.")
    return Faults({name: said}, error.members.get("nearest", ()))


@dataclass(frozen=True)
class Filled:
    """Data for rendering the form."""

    wish: Wish
    faults: Faults = field(default_factory=Faults)

    @cached_property
    def found(self) -> Found:
        return choices.search(self.wish.text, self.wish.tags, slug=self.wish.variant)

    @cached_property
    def offers(self) -> Offers:
        return choices.offers()

    @property
    def is_detailed(self) -> bool:
        """Return whether any of the rarely used options has a value."""
        said = {*self.wish.options, *self.faults.of}
        if self.wish.options.get("output_format") == Job.Format.WEBP:
            said.discard("output_format")
        return bool(said & {"size", "output_format", "model"})

    @property
    def sizes(self) -> list[tuple[str, str]]:
        """Return sizes with their labels."""
        known = [
            (size, f"{size} ({makers})" if makers else size) for size, makers in self.offers.sizes
        ]
        return _with(self.wish.options.get("size"), known)

    @property
    def formats(self) -> list[tuple[str, str]]:
        return _with(self.wish.options.get("output_format"), Job.Format.choices)

    @property
    def models(self) -> list[tuple[str, str]]:
        """Return releases by name, with their labels."""
        known = [
            (offer.name, f"{offer.name}, {offer.steps} step{'s' if offer.steps > 1 else ''}")
            for offer in self.offers.releases
        ]
        named = self.wish.options.get("model")
        return known if named in Release.Kind.values else _with(named, known)


def _with(typed: str | None, known: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the known values, and the typed one even if unknown."""
    return known if not typed or typed in dict(known) else [*known, (typed, typed)]

"""Form of the page: values as typed, validation, and submission of the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.functional import cached_property
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from generation.api import throttling
from generation.api.serializers.jobs import JobRequestSerializer
from generation.api.serializers.shapes import Strict
from generation.catalogue import unknown_words
from generation.errors import GenerationError, InvalidRequest
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, PromptVariant, Release
from generation.page import choices
from generation.page.choices import Choice, Found, Offers
from generation.page.responses import read

PROMPT = "prompt"  # text and variant are one field on the page
OPTIONS = ("n", "seed", "size", "output_format", "model")


def _typed() -> serializers.CharField:
    return serializers.CharField(allow_blank=True, trim_whitespace=False)


class SearchForm(Strict):
    """Query of the list of prompt variants."""

    text = _typed()
    variant = _typed()
    tag = serializers.ListField(child=serializers.CharField())


class CreateForm(SearchForm):
    """Form of the page. looked: the text for which the list was shown; look: the button that updates the list."""

    looked = _typed()
    look = _typed()
    n = _typed()
    seed = _typed()
    size = _typed()
    output_format = _typed()
    model = _typed()
    csrfmiddlewaretoken = serializers.CharField()


@dataclass(frozen=True)
class FormValues:
    """Values of the form. text, variant, tags: the prompt; options: by name, as typed.

    is_own_text: the text itself was selected in the list, not one of the found variants.
    """

    text: str = ""
    variant: str = ""
    tags: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    is_own_text: bool = False

    @classmethod
    def of(cls, form: Mapping[str, Any]) -> "FormValues":
        """Return the values of a form validated by CreateForm or SearchForm."""
        text, variant = form.get("text", ""), form.get("variant", "")
        is_own_text = variant == "" and "variant" in form and form.get("looked") == text
        if form.get("looked", text) != text:
            variant = ""  # the text was changed after the selection
        options = {name: form[name].strip() for name in OPTIONS if form.get(name, "").strip()}
        return cls(text, variant, form.get("tag", ()), options, is_own_text)


@dataclass(frozen=True)
class FormErrors:
    """Errors of a form. by_field: messages by field, "" = general; nearest: similar variants."""

    by_field: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nearest: Sequence[Mapping[str, Any]] = ()

    @property
    def general(self) -> Sequence[str]:
        return self.by_field.get("", ())

    @property
    def text(self) -> str:
        """Return all messages as one text."""
        return " ".join(message for messages in self.by_field.values() for message in messages)


def submit(owner: Any, values: FormValues) -> Job | FormErrors:
    """Submit the job and return it, or the errors."""
    try:
        asked = read(JobRequestSerializer, {**values.options, **_prompt(values)})
        throttling.check_person(owner)
        return submission.submit(owner, JobRequest(via=Job.Via.PAGE, **asked))
    except ValidationError as error:
        detail: Any = error.detail
        return FormErrors({name: [str(one) for one in detail[name]] for name in detail})
    except GenerationError as error:
        return _errors(error)


def _prompt(values: FormValues) -> dict[str, str]:
    if values.variant:
        return {"variant": values.variant}
    if values.text.strip():
        return {"text": values.text}
    raise InvalidRequest("Choose a prompt from the list, or write one.", parameter=PROMPT)


def _errors(error: GenerationError) -> FormErrors:
    name = error.parameter or ""
    if name in ("variant", "text"):
        name = PROMPT
    elif name not in (PROMPT, *OPTIONS):
        name = ""
    messages = [error.detail]
    if error.retryable:
        seconds = f" in {error.retry_after} s" if error.retry_after else " in a moment"
        messages.append(f"Try again{seconds}.")
    return FormErrors({name: messages}, error.members.get("nearest", ()))


@dataclass(frozen=True)
class Filled:
    """Data for rendering the form. owner: the user."""

    values: FormValues
    owner: Any
    errors: FormErrors = field(default_factory=FormErrors)

    @cached_property
    def found(self) -> Found:
        return choices.search(
            self.values.text,
            self.values.tags,
            owner=self.owner,
            slug=self.values.variant,
            is_own_text=self.values.is_own_text and not self.errors.nearest,
        )

    @cached_property
    def choices(self) -> list[Choice]:
        """Return the prompt variants of the list."""
        return choices.listed(self.found.variants, owner=self.owner)

    @cached_property
    def nearest(self) -> list[Choice]:
        """Return the similar variants named in the error."""
        slugs = [near["variant"] for near in self.errors.nearest]
        if not slugs:
            return []
        rows = PromptVariant.objects.in_bulk(slugs, field_name="slug")
        return choices.listed([rows[slug] for slug in slugs if slug in rows], owner=self.owner)

    @property
    def unknown(self) -> str:
        """Return the warning about unknown words of the text; "" if the prompt has an error."""
        return "" if self.errors.by_field.get(PROMPT) else unknown_words.warning(self.values.text)

    @property
    def has_thumbnails(self) -> bool:
        return any(choice.thumbnail for choice in self.choices)

    @cached_property
    def offers(self) -> Offers:
        return choices.offers()

    @property
    def is_detailed(self) -> bool:
        """Return whether any rarely used option has a value."""
        given = {*self.values.options, *self.errors.by_field}
        if self.values.options.get("output_format") == Job.Format.WEBP:
            given.discard("output_format")
        return bool(given & {"size", "output_format", "model"})

    @property
    def sizes(self) -> list[tuple[str, str]]:
        """Return sizes with their labels."""
        known = [
            (size, f"{size} ({makers})" if makers else size) for size, makers in self.offers.sizes
        ]
        return _with(self.values.options.get("size"), known)

    @property
    def formats(self) -> list[tuple[str, str]]:
        return _with(self.values.options.get("output_format"), Job.Format.choices)

    @property
    def models(self) -> list[tuple[str, str]]:
        """Return releases by name, with their labels."""
        known = [
            (offer.name, f"{offer.name}, {offer.steps} step{'s' if offer.steps > 1 else ''}")
            for offer in self.offers.releases
        ]
        named = self.values.options.get("model")
        return known if named in Release.Kind.values else _with(named, known)


def _with(typed: str | None, known: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the known values, plus the typed one if it is unknown."""
    return known if not typed or typed in dict(known) else [*known, (typed, typed)]

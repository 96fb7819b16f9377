"""Form to start a run: the recipes with their results and durations, and the plan of the run."""

import json
from io import BytesIO
from typing import IO, Any

from django import forms
from django.conf import settings
from rest_framework.exceptions import APIException
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from distillation.models import Run
from distillation.pipeline.summaries import FITS, REFERENCES, SUMMARIES
from distillation.reports import durations
from distillation.reports.durations import Measured
from distillation.runs import plans, recipe_descriptions
from distillation.runs import policy as redistillation
from distillation.runs.plans import Plan
from generation.api.parsers import StrictJSON
from generation.errors import GenerationError

MAX_BYTES = 100_000  # of an uploaded recipe
UPLOADED = "uploaded"  # choice of the recipe in the field `uploaded`


class RunForm(forms.ModelForm):
    """Form to start a run."""

    changes = forms.FileField(
        label="Changed recipe",
        required=False,
        widget=UnfoldAdminFileFieldWidget,
        help_text='A JSON file instead of a recipe of the list: {"recipe": NAME, FIELD: VALUE, …}.',
    )
    trains_on = forms.BooleanField(
        label="Continue from the active student",
        initial=True,
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Takes minutes instead of hours. Otherwise a new student is derived from the teacher.",
    )

    part = forms.CharField(
        label="Tags",
        required=False,
        max_length=300,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Only prompt variants with one of these tags, separated by commas: the release becomes a specialist. "
        "Empty: all variants.",
    )
    # A recipe uploaded with an earlier request: browsers do not send its file again.
    uploaded = forms.CharField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Run
        fields = ("policy",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(policy, policy.label) for policy in redistillation.policies()]
        kept = [(UPLOADED, "The uploaded recipe.")] if self["uploaded"].value() else []
        self.fields["recipe"] = forms.ChoiceField(
            choices=[*kept, *_recipes()], widget=UnfoldAdminRadioSelectWidget
        )
        self.fields["policy"] = forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget)

    def clean_recipe(self) -> dict[str, Any]:
        try:
            if (chosen := self.cleaned_data["recipe"]) != UPLOADED:
                return recipe_descriptions.described(chosen)
            return _parsed(BytesIO(self.data["uploaded"].encode()), "The uploaded recipe")
        except (APIException, GenerationError) as error:
            raise forms.ValidationError(str(error.detail)) from error

    def clean_changes(self) -> dict[str, Any] | None:
        file = self.cleaned_data["changes"]
        if file is None:
            return None
        if file.size > MAX_BYTES:
            raise forms.ValidationError(f"A recipe has at most {MAX_BYTES} bytes.")
        try:
            return _parsed(file, file.name)
        except (APIException, GenerationError) as error:
            raise forms.ValidationError(str(error.detail)) from error

    def arguments(self, person: Any) -> dict[str, Any]:
        """Return the arguments of `policy.start` that a valid form gives."""
        data = self.cleaned_data
        return {
            "recipe": data["changes"] or data["recipe"],
            "is_warm": data["trains_on"],
            "policy": data["policy"],
            "tags": [tag.strip() for tag in data["part"].split(",") if tag.strip()],
            "created_by": person,
        }

    def given(self) -> dict[str, Any]:
        """Return the submitted values as initial values of the form."""
        data = self.cleaned_data
        given = {"recipe": self.data["recipe"]}
        if data["changes"]:
            given = {"recipe": UPLOADED, "uploaded": json.dumps(data["changes"])}
        elif given["recipe"] == UPLOADED:
            given["uploaded"] = data["uploaded"]
        return given | {name: data[name] for name in ("policy", "trains_on", "part")}


def _parsed(file: IO[bytes], name: str) -> dict[str, Any]:
    return recipe_descriptions.check_description(StrictJSON().parse(file), name)


def plan(form: RunForm, person: Any) -> Plan:
    """Return the plan of a valid form. Raises the errors of `policy.start`."""
    return plans.plan(**form.arguments(person))


def _recipes() -> list[tuple[str, str]]:
    """Return the choices of recipes with descriptions and durations; the server's own first if it is a file."""
    own = settings.DISTILLATION_RECIPE
    measured = durations.measured()
    first = [] if own in SUMMARIES else [(own, "The recipe of this server (DISTILLATION_RECIPE).")]
    return [
        *first,
        *((name, f"{name}: {about} {_time(name, measured)}") for name, about in SUMMARIES.items()),
    ]


def _time(name: str, measured: dict[tuple[str, bool], Measured]) -> str:
    """Return a sentence on the duration of earlier runs of the recipe."""
    parts = []
    for is_warm, how in ((True, "continuing a student"), (False, "from the teacher")):
        if is_warm and FITS[name].again_steps is None:
            continue
        found = measured.get((name, is_warm))
        known = REFERENCES.get((name, is_warm))
        if found is not None:
            of = "1 run" if found.runs == 1 else f"{found.runs} runs"
            parts.append(f"{durations.in_words(found.seconds)} {how} ({of})")
        elif known is not None:
            parts.append(f"{known.minutes} minutes {how} on {known.on} (not measured here yet)")
    time = f"Time: {', '.join(parts)}." if parts else "Time: not measured here yet."
    return time if FITS[name].again_steps else f"It cannot continue a student. {time}"

"""Serializers of distillation runs."""

from typing import Any

from rest_framework import serializers

from distillation.errors import DistillationRefused
from distillation.models import Run
from distillation.runs import recipe_descriptions
from generation.api.serializers.shapes import PageQuery, Strict


def recipe_description(value: Any) -> dict[str, Any]:
    """Return the description of a recipe given by name or as an object. Raises ValidationError."""
    described = {"recipe": value} if isinstance(value, str) else value
    try:
        return recipe_descriptions.check_description(described, "recipe")
    except DistillationRefused as error:
        raise serializers.ValidationError(error.detail) from error


class RunQuery(PageQuery):
    status = serializers.ChoiceField(Run.Status.choices)


class RunRequestSerializer(Strict):
    recipe = serializers.JSONField(
        help_text='Name of a recipe, or {"recipe": NAME, FIELD: VALUE, …}. Default: the server\'s setting.'
    )
    anew = serializers.BooleanField(
        default=False,
        help_text="Derive a new student from the teacher instead of continuing from the active student.",
    )
    policy = serializers.ChoiceField(Run.Policy.choices, help_text="Default: the server's setting.")

    tags = serializers.ListField(
        child=serializers.CharField(max_length=60),
        max_length=20,
        default=list,
        help_text="Only prompt variants with one of these tags: the release becomes a specialist for them.",
    )

    def validate_recipe(self, value: Any) -> dict[str, Any]:
        return recipe_description(value)


class CheckSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    passed = serializers.BooleanField()
    limit = serializers.FloatField()
    found = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(
        allow_null=True, help_text="Lower end of the one-sided 95 % interval."
    )
    detail = serializers.CharField(allow_blank=True)


class PromptSideSerializer(serializers.Serializer[Any]):
    release = serializers.CharField(
        allow_null=True,
        help_text="Release that makes the prompt's images; null: requests are refused.",
    )
    right = serializers.IntegerField(help_text="Number of right pictures.")
    judged = serializers.IntegerField(help_text="Judged pictures.")


class PromptChangeSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    text = serializers.CharField()
    before = PromptSideSerializer(help_text="Release that made its images when the gate ran.")
    after = PromptSideSerializer(
        help_text="Release that makes its images once the run's release serves."
    )


class HardPromptSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    text = serializers.CharField()
    tried = PromptSideSerializer(many=True, help_text="Students judged there, the best first.")


class PromptsSerializer(serializers.Serializer[Any]):
    changed = serializers.IntegerField(help_text="Number of prompts that change.")
    better = serializers.IntegerField()
    worse = serializers.IntegerField()
    rows = PromptChangeSerializer(many=True, help_text="The largest changes, the worst first.")
    hard = serializers.IntegerField(help_text="Number of prompts that no student makes well.")
    hard_rows = HardPromptSerializer(many=True)


class RunErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class RunSerializer(serializers.Serializer[Run]):
    name = serializers.CharField(help_text="Name of the run and of the release it makes.")
    status = serializers.ChoiceField(Run.Status.choices)
    progress = serializers.FloatField(source="percent", help_text="Percent.")
    stage = serializers.CharField(allow_blank=True)
    slices = serializers.IntegerField(source="token", help_text="Number of slices so far.")
    outcome = serializers.ChoiceField(Run.Outcome.choices)
    outcome_reason = serializers.CharField(
        allow_blank=True, help_text="Why the release was promoted or not; empty before."
    )
    recipe = serializers.JSONField()
    teacher = serializers.CharField(source="teacher.name", help_text="Name of the teacher release.")
    begins_with = serializers.CharField(
        source="begins_with.name", allow_null=True, help_text="The student it continues from."
    )
    variants = serializers.IntegerField(
        help_text="Number of prompt variants; 0 before the first slice."
    )
    tags = serializers.ListField(
        child=serializers.CharField(),
        help_text="Tags of the prompt variants that the run is for (a specialist); empty: all variants.",
    )
    trigger = serializers.ChoiceField(Run.Trigger.choices)
    reasons = serializers.ListField(child=serializers.CharField())
    policy = serializers.ChoiceField(Run.Policy.choices)
    gate = CheckSerializer(
        source="checks", many=True, help_text="Checks of the promotion gate; empty before they ran."
    )
    error = RunErrorSerializer(allow_null=True, help_text="Error of a failed run.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class RunDetailSerializer(RunSerializer):
    prompts = PromptsSerializer(
        allow_null=True,
        help_text="What its release changes, prompt by prompt; null before the gate ran.",
    )

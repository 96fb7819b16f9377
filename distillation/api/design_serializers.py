"""Serializers of designs."""

from typing import Any

from rest_framework import serializers

from distillation.api.serializers import recipe_description
from distillation.design.limits import BEST, MAX_HOURS, WISHES
from distillation.designs import lifecycle as designs
from distillation.models import Design, DesignCandidate
from generation.api.serializers.shapes import PageQuery, Strict


class DesignQuery(PageQuery):
    status = serializers.ChoiceField(Design.Status.choices)


class DesignRequestSerializer(Strict):
    mandatory = ("hours",)

    size = serializers.CharField(
        max_length=20, help_text="Largest size of the release, such as 8MB."
    )
    time = serializers.CharField(
        max_length=30, help_text="Longest time of one picture on a device, such as 12ms@cpu."
    )
    memory = serializers.CharField(max_length=20, help_text="Largest memory, such as 500MB.")
    quality = serializers.CharField(
        max_length=10, help_text="Lowest quality (right pictures, student ÷ teacher), such as 0.97."
    )
    wish = serializers.ChoiceField(
        WISHES, default=BEST, help_text="Which of the students within the limits to choose."
    )
    hours = serializers.FloatField(help_text=f"Of work, up to {MAX_HOURS:g}.")
    tags = serializers.ListField(
        child=serializers.CharField(max_length=60),
        max_length=20,
        help_text="Only prompt variants with one of these tags.",
    )
    student = serializers.CharField(
        max_length=100, help_text="A student to compare with. Default: the active one."
    )
    recipe = serializers.JSONField(
        help_text='What candidates are variations of: a name, or {"recipe": NAME, FIELD: VALUE, …}. Default: the '
        "server's setting."
    )

    def validate_recipe(self, value: Any) -> dict[str, Any]:
        return recipe_description(value)


class DesignLimitsSerializer(serializers.Serializer[Any]):
    size = serializers.IntegerField(required=False, help_text="Bytes.")
    time = serializers.FloatField(required=False, help_text="Seconds.")
    memory = serializers.IntegerField(required=False, help_text="Bytes.")
    quality = serializers.FloatField(required=False)


class DesignSerializer(serializers.Serializer[Design]):
    id = serializers.IntegerField(source="pk")
    status = serializers.ChoiceField(Design.Status.choices)
    progress = serializers.FloatField(source="percent", help_text="Percent of the hours.")
    at_work = serializers.CharField(allow_blank=True, help_text="Present activity.")
    limits = DesignLimitsSerializer()
    device = serializers.CharField(help_text="Device on which time and memory are measured.")
    wish = serializers.ChoiceField(WISHES)
    hours = serializers.FloatField()
    tags = serializers.ListField(child=serializers.CharField())
    recipe = serializers.JSONField()
    teacher = serializers.CharField(source="teacher.name")
    student = serializers.CharField(
        source="student.name", allow_null=True, help_text="The student it is compared with."
    )
    choice = serializers.IntegerField(allow_null=True, help_text="Number of the chosen candidate.")
    reason = serializers.CharField(
        allow_blank=True, help_text="Why this candidate was chosen, or why none was."
    )
    error = serializers.CharField(
        source="error_detail", allow_blank=True, help_text="Error of a failed design."
    )
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class DesignCostsSerializer(serializers.Serializer[Any]):
    size = serializers.IntegerField(help_text="Bytes.")
    time = serializers.FloatField(
        allow_null=True,
        help_text="Seconds; null: not measured, because the size exceeds its limit.",
    )
    memory = serializers.IntegerField(allow_null=True, help_text="Bytes.")
    device = serializers.CharField(allow_blank=True)


class DesignRungSerializer(serializers.Serializer[Any]):
    share = serializers.FloatField(help_text="Share of the recipe's steps that it was trained for.")
    quality = serializers.FloatField(help_text="Right pictures, student ÷ teacher.")
    low = serializers.FloatField(help_text="Lower end of the one-sided 95 % interval.")
    high = serializers.FloatField(help_text="Upper end of the one-sided 95 % interval.")
    pictures = serializers.IntegerField(help_text="Number of judged pictures.")


class DesignCandidateSerializer(serializers.Serializer[DesignCandidate]):
    number = serializers.IntegerField()
    params = serializers.JSONField(help_text="Parameters: cut, width, timesteps, decoder, …")
    costs = DesignCostsSerializer(allow_null=True, help_text="Null before they are measured.")
    rungs = DesignRungSerializer(
        many=True, help_text="Trainings of growing length, each with its evaluation."
    )
    refused = serializers.CharField(allow_blank=True, help_text="Why it was left out.")


class DesignDetailSerializer(DesignSerializer):
    candidates = DesignCandidateSerializer(many=True)
    chosen_recipe = serializers.SerializerMethodField(
        help_text="Recipe of the choice, for POST /v1/runs; null before there is one."
    )

    def get_chosen_recipe(self, design: Design) -> dict[str, Any] | None:
        return designs.chosen_recipe(design)

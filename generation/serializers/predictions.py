"""Predictions in Replicate's form, in and out. Shapes only: what is allowed is decided below, in `submission`."""

from typing import Any

from rest_framework import serializers

from generation.models import Job
from generation.predictions import ABORTED, STATUSES, as_prediction


class PredictionURLsSerializer(serializers.Serializer[Any]):
    get = serializers.URLField()
    cancel = serializers.URLField()
    stream = serializers.URLField(help_text="Server-sent events.")


class PredictionMetricsSerializer(serializers.Serializer[Any]):
    """Seconds; empty until the job has ended."""

    predict_time = serializers.FloatField(required=False, help_text="From the last start.")
    total_time = serializers.FloatField(required=False, help_text="From creation to the end.")
    queue_time = serializers.FloatField(required=False, help_text="From creation to the start.")
    device_time = serializers.FloatField(required=False, help_text="The share of its batch.")
    encode_time = serializers.FloatField(required=False, help_text="For writing its files.")


class PredictionSerializer(serializers.Serializer[Job]):
    """As Replicate has it; after `urls` come fields of ours."""

    id = serializers.CharField(help_text="Chosen by the client in a PUT, else the job's.")
    job = serializers.UUIDField(help_text="Id of the same job in /v1/jobs.")
    model = serializers.CharField(help_text="retort/student or retort/teacher")
    version = serializers.CharField(help_text="SHA-256 of the release's manifest.")
    status = serializers.ChoiceField([*STATUSES.values(), ABORTED])
    input = serializers.DictField(help_text="What to send again for the same pictures.")
    output = serializers.ListField(
        child=serializers.URLField(), allow_null=True, help_text="Links to the files."
    )
    error = serializers.CharField(allow_null=True)
    error_code = serializers.CharField(allow_null=True)
    logs = serializers.CharField(help_text="The steps so far, as a progress bar.")
    metrics = PredictionMetricsSerializer()
    data_removed = serializers.BooleanField(help_text="Whether the files were removed.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    urls = PredictionURLsSerializer()
    phase = serializers.ChoiceField(Job.Status.choices, help_text="The status of the job.")
    variant = serializers.CharField(help_text="Slug of the prompt variant.")
    attempt = serializers.IntegerField(help_text="Executions so far.")
    cache = serializers.ChoiceField(Job.Cache.choices)

    def to_representation(self, instance: Job) -> dict[str, Any]:
        request = self.context["request"]
        return as_prediction(instance, base_url=request.build_absolute_uri("/"))

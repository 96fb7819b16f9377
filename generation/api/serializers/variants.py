"""Serializers of prompt variants. The rules of a text and of tags are in `generation.catalogue`."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.api.serializers.shapes import PageQuery, SelfURLSerializer, Strict, absolute, url
from generation.catalogue.text_rules import MAX_NOTES_CHARACTERS, MAX_TAG_CHARACTERS, MAX_WORDS
from generation.images import links
from generation.models import PromptVariant

MAX_TAGS = 50
MAX_ROWS = 5000  # of an import
NOTES = f"Notes of editors, at most {MAX_NOTES_CHARACTERS} characters; they have no effect."


class VariantQuery(PageQuery):
    q = serializers.CharField(help_text="Substring of the text or the slug.")
    tag = serializers.CharField(help_text="Only variants with this tag.")
    covered = serializers.BooleanField(
        help_text="Only variants that a student in service covers, or only the others."
    )


class Tags(serializers.ListField):
    def __init__(self) -> None:
        super().__init__(
            child=serializers.CharField(max_length=MAX_TAG_CHARACTERS),
            max_length=MAX_TAGS,
            help_text="All tags. The detector checks tags that it supports in images; with the prefix not-, the image "
            "must not show them.",
        )


class ChangeVariantSerializer(Strict):
    text = serializers.CharField(
        help_text=f"1 to {MAX_WORDS} words. A changed text is a new revision and is encoded again."
    )
    tags = Tags()
    status = serializers.ChoiceField(
        PromptVariant.Status.choices,
        help_text="archived: requests for images of it are refused; active: they are accepted.",
    )
    notes = serializers.CharField(allow_blank=True, help_text=NOTES)
    new_revision = serializers.BooleanField(
        default=False,
        help_text="Required to change a text that has images: they keep the old text.",
    )


class NewVariantSerializer(Strict):
    mandatory = ("text",)

    slug = serializers.SlugField(
        max_length=120, help_text="Name in requests. Default: made from the text."
    )
    text = serializers.CharField(help_text=f"1 to {MAX_WORDS} words.")
    tags = Tags()
    status = serializers.ChoiceField(
        PromptVariant.Status.choices, default=PromptVariant.Status.ACTIVE
    )
    notes = serializers.CharField(allow_blank=True, help_text=NOTES)


class ImportedVariantSerializer(Strict):
    slug = serializers.SlugField(
        max_length=120,
        help_text="Variant to change, or name of a new one. Default: the variant that has the text, else made from it.",
    )
    text = serializers.CharField(help_text=f"1 to {MAX_WORDS} words. Required for a new variant.")
    tags = Tags()
    status = serializers.ChoiceField(
        PromptVariant.Status.choices, help_text="A new variant is active by default."
    )
    notes = serializers.CharField(allow_blank=True, help_text=NOTES)


class ImportedVariants(serializers.ListField):
    def __init__(self) -> None:
        super().__init__(
            child=ImportedVariantSerializer(),
            min_length=1,
            max_length=MAX_ROWS,
            help_text="A field that is not given keeps its value.",
        )

    def run_child_validation(self, data: list[Any]) -> list[Any]:
        # Before the rows, of which each may have errors.
        if len(data) > MAX_ROWS:
            raise serializers.ValidationError(
                f"Send at most {MAX_ROWS:,} variants in a request.", code="max_length"
            )
        checked: list[Any] = super().run_child_validation(data)
        return checked


class ImportVariantsSerializer(Strict):
    mandatory = ("variants",)

    variants = ImportedVariants()
    dry_run = serializers.BooleanField(
        default=False, help_text="Check and count, but change nothing."
    )
    new_revisions = serializers.BooleanField(
        default=False,
        help_text="Required to change texts that have images: they keep the old texts.",
    )


class ImportReportSerializer(serializers.Serializer[Any]):
    created = serializers.IntegerField()
    changed = serializers.IntegerField()
    unchanged = serializers.IntegerField()


class ExampleSerializer(serializers.Serializer[Any]):
    image = serializers.UUIDField(
        allow_null=True,
        help_text="Id of your newest image of the variant; null: the thumbnail belongs to no job.",
    )
    thumbnail = serializers.URLField(
        help_text="Signed link to a WebP of at most 256 pixels on its longest side."
    )


class VariantSerializer(serializers.ModelSerializer[PromptVariant]):
    is_covered = serializers.BooleanField(
        help_text="Whether a student in service was made for this text."
    )
    served_by = serializers.SerializerMethodField(
        help_text="Release that serves a request without a model; null: such requests are refused."
    )
    quality = serializers.SerializerMethodField(
        help_text="Share of right pictures of this release; null: too few were judged."
    )
    quality_interval = serializers.SerializerMethodField(
        help_text="Ends of the 95 % interval of `quality`."
    )
    example = serializers.SerializerMethodField(
        help_text="Your newest image of it, if the key has jobs:read; else one that was made for everybody by the "
        "student that serves it; null: there is none yet."
    )
    urls = serializers.SerializerMethodField()

    class Meta:
        model = PromptVariant
        fields = [
            "slug",
            "text",
            "tags",
            "status",
            "revision",
            "is_covered",
            "served_by",
            "quality",
            "quality_interval",
            "quality_floor",
            "example",
            "created_at",
            "updated_at",
            "urls",
        ]

    def get_served_by(self, variant: PromptVariant) -> str | None:
        release = self.context["serving"].release(variant)
        return release.name if release else None

    def get_quality(self, variant: PromptVariant) -> float | None:
        share: float | None = self.context["serving"].share(variant)
        return share

    @extend_schema_field(
        serializers.ListField(
            child=serializers.FloatField(), min_length=2, max_length=2, allow_null=True
        )
    )
    def get_quality_interval(self, variant: Any) -> tuple[float, float] | None:
        found = self.context["judged"].get(variant.normalized_text)
        return None if found is None or self.get_quality(variant) is None else found.share.interval

    @extend_schema_field(ExampleSerializer(allow_null=True))
    def get_example(self, variant: Any) -> dict[str, Any] | None:
        own = self.context["examples"].get(variant.pk)
        if own is not None:
            return {"image": str(own), "thumbnail": absolute(self, links.thumbnail_path(own))}
        shown = self.context["variant_images"].get(variant.pk)
        if shown is None:
            return None
        return {"image": None, "thumbnail": absolute(self, links.variant_image_path(shown))}

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, variant: PromptVariant) -> dict[str, str]:
        return {"self": url(self, "variant", variant.slug)}

"""Views of prompt variants: list, read, add, change, import. Only active ones can be read."""

from collections.abc import Collection
from typing import Any, cast
from uuid import UUID

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.parsers import ImportJSON
from generation.api.serializers.shapes import NoQuery, query
from generation.api.serializers.variants import (
    ChangeVariantSerializer,
    ImportReportSerializer,
    ImportVariantsSerializer,
    NewVariantSerializer,
    VariantQuery,
    VariantSerializer,
)
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.catalogue import editing, import_export
from generation.catalogue import variants as catalogue
from generation.errors import PromptInvalid
from generation.jobs import variant_images
from generation.models import APIKey, Image, Job, PromptVariant
from generation.releases.default_release import Serving

ACTIVE = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
MAX_JOBS = 1000  # newest jobs of the owner that are searched for examples


def examples(owner: Any, variants: Collection[PromptVariant]) -> dict[int, UUID]:
    """Return the owner's newest image of each variant by the variant's pk, from the owner's newest jobs."""
    newest = Job.objects.filter(owner=owner).order_by("-created_at", "-id").values("pk")[:MAX_JOBS]
    found = Image.objects.filter(
        job__in=newest, job__variant__in=[variant.pk for variant in variants]
    )
    rows = found.order_by("job__variant_id", "-job__created_at", "index")
    return dict(rows.distinct("job__variant_id").values_list("job__variant_id", "pk"))


class VariantList(ListView):
    required_scopes = {"GET": APIKey.Scope.VARIANTS_READ, "POST": APIKey.Scope.VARIANTS_WRITE}
    query_class = VariantQuery
    serializer_class = VariantSerializer

    @extend_schema(
        operation_id="list_variants",
        parameters=[VariantQuery],
        responses={200: VariantSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the active prompt variants, by slug."""
        return self.page(request)

    def facts(self, request: Request, found: list[PromptVariant]) -> dict[str, Any]:
        return _facts(request, self.serving, found)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[PromptVariant]:
        self.serving = Serving.now()
        rows = self.serving.annotated(ACTIVE).order_by("slug")
        if "covered" in asked:
            rows = rows.filter(is_covered=asked["covered"])
        if "q" in asked:
            rows = rows.filter(Q(text__icontains=asked["q"]) | Q(slug__icontains=asked["q"]))
        if "tag" in asked:
            rows = rows.filter(tags__contains=[asked["tag"]])
        return rows

    @extend_schema(
        operation_id="create_variant",
        request=NewVariantSerializer,
        responses={201: VariantSerializer} | responses(400, 401, 403, 422),
    )
    def post(self, request: Request) -> Response:
        """Add a prompt variant. It is encoded in the background, and can be requested after that."""
        query(NoQuery, request)
        asked = NewVariantSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        variant = catalogue.save(PromptVariant(**asked.validated_data))
        shown = _shown(request, variant.slug)
        return Response(shown, status.HTTP_201_CREATED, headers={"Location": shown["urls"]["self"]})


class VariantDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.VARIANTS_READ, "PATCH": APIKey.Scope.VARIANTS_WRITE}

    @extend_schema(
        operation_id="read_variant", responses={200: VariantSerializer} | responses(401, 403, 404)
    )
    def get(self, request: Request, slug: str) -> Response:
        """Read an active prompt variant."""
        query(NoQuery, request)
        return Response(_shown(request, slug, among=ACTIVE))

    @extend_schema(
        operation_id="change_variant",
        request=ChangeVariantSerializer,
        responses={200: VariantSerializer} | responses(400, 401, 403, 404, 422),
    )
    def patch(self, request: Request, slug: str) -> Response:
        """Change the text, the tags or the status of a prompt variant, whatever its status."""
        query(NoQuery, request)
        asked = ChangeVariantSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        get_object_or_404(PromptVariant, slug=slug)
        variant = editing.edit(slug, **asked.validated_data)
        return Response(_shown(request, variant.slug))


# GET and PATCH are for a variant with the slug "import".
@extend_schema_view(get=extend_schema(exclude=True), patch=extend_schema(exclude=True))
class VariantImport(VariantDetail):
    required_scopes = VariantDetail.required_scopes | {"POST": APIKey.Scope.VARIANTS_WRITE}
    parser_classes = (ImportJSON,)

    @extend_schema(
        operation_id="import_variants",
        request=ImportVariantsSerializer,
        responses={200: ImportReportSerializer} | responses(400, 401, 403, 413),
    )
    def post(self, request: Request, slug: str) -> Response:
        """Add and change many prompt variants. Any error refuses the whole request; repeating it changes nothing."""
        query(NoQuery, request)
        asked = ImportVariantsSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        report = import_export.import_rows(
            given["variants"], dry_run=given["dry_run"], new_revisions=given["new_revisions"]
        )
        if report.errors:
            raise _wrong_rows(report.errors)
        counts = {
            "created": report.new,
            "changed": report.updated,
            "unchanged": report.unchanged,
        }
        return Response(ImportReportSerializer(counts).data)


def _wrong_rows(errors: Collection[import_export.RowError]) -> serializers.ValidationError:
    """Return the exception for wrong rows, with the same paths as errors of the serializer."""
    rows: dict[str, dict[str, Any]] = {}
    for error in errors:
        rows.setdefault(str(error.row), {})[error.field] = error.message
    return serializers.ValidationError({"variants": rows}, code=PromptInvalid.code)


def _facts(
    request: Request, serving: Serving, variants: Collection[PromptVariant]
) -> dict[str, Any]:
    """Return the serializer's context for annotated variants, without own images if the key may not read them."""
    may_read = APIKey.Scope.JOBS_READ in cast(APIKey, request.auth).scopes
    return {
        "serving": serving,
        "judged": serving.judged(variants),
        "examples": examples(request.user, variants) if may_read else {},
        "variant_images": variant_images.shown(serving, variants),
    }


def _shown(
    request: Request, slug: str, *, among: QuerySet[PromptVariant] | None = None
) -> dict[str, Any]:
    """Return a variant in the format of the list. among: rows to search, by default all."""
    serving = Serving.now()
    rows = PromptVariant.objects.all() if among is None else among
    variant = get_object_or_404(serving.annotated(rows), slug=slug)
    context = {"request": request} | _facts(request, serving, [variant])
    return VariantSerializer(variant, context=context).data

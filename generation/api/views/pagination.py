"""Cursor pagination: {next, previous, results} with opaque keyset cursors, at a cost independent of the position."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from rest_framework import exceptions
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from generation.api.serializers.shapes import MAX_PAGE, PageQuery, Strict, query


class InvalidCursor(exceptions.ValidationError):
    def __init__(self) -> None:
        super().__init__({"cursor": "Use the cursor of a next or previous link."}, code="invalid")


class Cursor(CursorPagination):
    page_size = 20
    page_size_query_param = "limit"
    max_page_size = MAX_PAGE

    def get_ordering(
        self, request: Request, queryset: QuerySet[Any], view: APIView
    ) -> tuple[str, ...]:
        return tuple(str(name) for name in queryset.query.order_by)

    def decode_cursor(self, request: Request) -> Any:
        """Decode the cursor of the query. Raise for a malformed one, for which DRF would return the first page."""
        cursor = super().decode_cursor(request)
        if cursor and cursor.position is None and not cursor.offset:
            raise InvalidCursor
        return cursor

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> Any:
        try:
            return super().paginate_queryset(queryset, request, view=view)
        except (
            NotFound,
            ValidationError,
            ValueError,
        ) as error:  # forged: not base64, or without a date
            raise InvalidCursor from error


class ListView(APIView):
    """Base view of a list. Subclasses return the rows for a validated query."""

    query_class: type[Strict] = PageQuery
    serializer_class: type[BaseSerializer[Any]]
    pagination_class = Cursor  # read by drf-spectacular

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Any, Any]:
        """Return ordered rows."""
        raise NotImplementedError

    def facts(self, request: Request, found: list[Any]) -> dict[str, Any]:
        """Return further context of the serializer for a page of rows."""
        return {}

    def page(self, request: Request) -> Response:
        rows: QuerySet[Model] = self.rows(request, query(self.query_class, request))
        cursor = Cursor()
        found = cursor.paginate_queryset(rows, request, view=self)
        context = {"request": request, **self.facts(request, found)}
        shown = self.serializer_class(found, many=True, context=context)
        return cursor.get_paginated_response(shown.data)

"""What every request and answer shares: strictness, pages, absolute addresses."""

from typing import Any, ClassVar
from uuid import UUID

from django.urls import reverse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.utils.serializer_helpers import BindingDict

from generation.images import links

MAX_PAGE = 100


class Strict(serializers.Serializer[Any]):
    """Refuses, by name, what it does not know: a parameter that is silently dropped is a wrong picture."""

    hints: ClassVar[dict[str, str]] = {}  # what to do instead, for names that clients bring along
    _fields: ClassVar[dict[type, BindingDict]] = {}

    @property
    def fields(self) -> BindingDict:
        """Made once for each class: REST framework copies them for every request, which takes longer than to validate.

        They keep no state of a request, and are bound to the first of these serializers.
        """
        kind = type(self)
        if kind not in self._fields:
            self._fields[kind] = super().fields
        return self._fields[kind]

    def to_internal_value(self, data: Any) -> Any:
        if hasattr(data, "keys"):
            unknown = sorted(set(data.keys()) - set(self.fields))
            if unknown:
                known = ", ".join(sorted(self.fields))
                said = {name: self.hints.get(name, f"Known: {known}.") for name in unknown}
                raise serializers.ValidationError(
                    {name: f"Unknown parameter. {hint}" for name, hint in said.items()},
                    code="unsupported_parameter",
                )
        return super().to_internal_value(data)


def query(serializer: type[Strict], request: Request) -> dict[str, Any]:
    """The validated query of a request."""
    checked = serializer(data=request.query_params.dict())
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def absolute(serializer: serializers.BaseSerializer[Any], path: str) -> str:
    request = serializer.context.get("request")
    return request.build_absolute_uri(path) if request else path


def url(serializer: serializers.BaseSerializer[Any], name: str, *arguments: Any) -> str:
    return absolute(serializer, reverse(name, args=arguments))


def url_of(serializer: serializers.BaseSerializer[Any], name: str, row_id: UUID) -> str:
    """As `url`, sooner."""
    before, after = links.around(name)
    return absolute(serializer, f"{before}{row_id}{after}")


class PageQuery(Strict):
    limit = serializers.IntegerField(
        required=False, default=20, min_value=1, max_value=MAX_PAGE, help_text="Results on a page."
    )
    cursor = serializers.CharField(required=False, help_text="From the links next and previous.")


class NoQuery(Strict):
    pass


class SelfURLSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()

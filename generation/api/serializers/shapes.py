"""Base serializers: strict fields, paging, absolute URLs."""

from typing import Any, ClassVar
from uuid import UUID

from django.urls import reverse
from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.request import Request
from rest_framework.utils.serializer_helpers import BindingDict

from generation.images import links

MAX_PAGE = 100


class Strict(serializers.Serializer[Any]):
    """Serializer that refuses unknown parameters, because ignoring one would give a wrong image.

    Only the fields named in `mandatory` are required.
    """

    mandatory: ClassVar[tuple[str, ...]] = ()
    hints: ClassVar[dict[str, str]] = {}  # advice for unknown names that clients often send
    _fields: ClassVar[dict[type, BindingDict]] = {}

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        for name, field in fields.items():
            field.required = name in self.mandatory
        return fields

    @property
    def fields(self) -> BindingDict:
        """Return the fields, created once per class: REST framework's copy per request is slower than validation.

        They have no request state, and are bound to the first serializer of the class.
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
                advice = {name: self.hints.get(name, f"Known: {known}.") for name in unknown}
                raise serializers.ValidationError(
                    {name: f"Unknown parameter. {hint}" for name, hint in advice.items()},
                    code="unsupported_parameter",
                )
        return super().to_internal_value(data)


class WholeNumber(serializers.IntegerField):
    """Integer within limits, with one message for every invalid value."""

    def __init__(
        self,
        min_value: int,
        max_value: int,
        *,
        help_text: str | None = None,
        default: Any = empty,
    ) -> None:
        said = f"Give a whole number from {min_value:,} to {max_value:,}."
        reasons = ("invalid", "min_value", "max_value", "max_string_length")
        super().__init__(
            min_value=min_value,
            max_value=max_value,
            help_text=help_text,
            default=default,
            error_messages=dict.fromkeys(reasons, said),
        )


def query(serializer: type[Strict], request: Request) -> dict[str, Any]:
    """Return the validated query of a request."""
    checked = serializer(data=request.query_params.dict())
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def absolute(serializer: serializers.BaseSerializer[Any], path: str) -> str:
    request = serializer.context.get("request")
    return request.build_absolute_uri(path) if request else path


def url(serializer: serializers.BaseSerializer[Any], name: str, *arguments: Any) -> str:
    return absolute(serializer, reverse(name, args=arguments))


def url_of(serializer: serializers.BaseSerializer[Any], name: str, row_id: UUID) -> str:
    """Return the same URL as `url`, faster, for a route with one UUID."""
    before, after = links.around(name)
    return absolute(serializer, f"{before}{row_id}{after}")


class PageQuery(Strict):
    limit = WholeNumber(1, MAX_PAGE, default=20, help_text="Results per page.")
    cursor = serializers.CharField(
        help_text="Place in the list; taken from the links next and previous of a page."
    )


class NoQuery(Strict):
    pass


class SelfURLSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()

"""Initial values of the form of a new object, which a link gives in its query."""

from datetime import datetime
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.http import HttpRequest


class ReadableInitialMixin:
    """Mixin of ModelAdmin that drops initial values which their field cannot read: its widget could not show them."""

    opts: Any

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        given = super().get_changeform_initial_data(request)  # type: ignore[misc]
        read = {name: self._read(name, value) for name, value in given.items()}
        return {name: value for name, value in read.items() if value is not None}

    def _read(self, name: str, value: Any) -> Any:
        """Return the value as the widget needs it; None if the field cannot read it."""
        try:
            field = self.opts.get_field(name)
        except FieldDoesNotExist:
            return value
        form_field = field.formfield() if hasattr(field, "formfield") else None
        if form_field is None:
            return None
        try:
            read = form_field.to_python(value)
        except (ValidationError, ValueError):
            return None
        return read if isinstance(read, datetime) else value

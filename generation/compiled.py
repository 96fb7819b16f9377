"""Querysets and inserts whose SQL is made once. Knows no model.

Django builds the SQL of a queryset anew each time, which takes a request longer than PostgreSQL's answer does. What is
asked at every request is written as any queryset, with stand-ins for what changes, and compiled at its first use.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Field, Model, QuerySet
from django.db.models.query import get_related_populators

M = TypeVar("M", bound=Model)


class Compiled(Generic[M]):
    """Use it as `found = rows.all(slug="mug")`.

    build: called once with the stand-ins by name; returns a queryset of whole or deferred rows with select_related, no
    annotations, no prefetch_related. stand_ins: values of the right types that occur nowhere else in the query.
    """

    def __init__(self, build: Callable[..., QuerySet[M]], **stand_ins: Any) -> None:
        self._build = build
        self._stand_ins: Mapping[str, str] = {str(value): name for name, value in stand_ins.items()}
        self._given = stand_ins
        self._compiler: Any = None
        self._sql = ""
        self._parameters: list[tuple[str | None, Any]] = []
        self._guard = threading.Lock()

    def all(self, **values: Any) -> list[M]:
        """The rows with these values in place of the stand-ins."""
        if self._compiler is None:
            self._compile()
        parameters = [values[name] if name else value for name, value in self._parameters]
        with connection.cursor() as cursor:
            cursor.execute(self._sql, parameters)
            rows = cursor.fetchall()
        return self._instances(rows) if rows else []

    def first(self, **values: Any) -> M | None:
        """The first of the rows; the queryset should be limited to one."""
        return next(iter(self.all(**values)), None)

    def _compile(self) -> None:
        with self._guard:
            compiler = self._build(**self._given).query.get_compiler(DEFAULT_DB_ALIAS)
            self._sql, parameters = compiler.as_sql()
            self._parameters = [(self._stand_ins.get(str(value)), value) for value in parameters]
            missing = set(self._given) - {name for name, _ in self._parameters}
            if missing:
                raise ValueError(f"The queryset lost {', '.join(sorted(missing))}.")
            self._compiler = compiler

    def _instances(self, rows: list[Any]) -> list[M]:
        """As Django's ModelIterable makes them."""
        compiler = self._compiler
        info = compiler.klass_info
        fields = info["select_fields"]
        start, end = fields[0], fields[-1] + 1
        names = [compiler.select[place][0].target.attname for place in range(start, end)]
        # The stubs describe a later Django than the one that is required.
        populators = get_related_populators(info, compiler.select, DEFAULT_DB_ALIAS)  # type: ignore[call-arg]
        made = []
        for row in compiler.results_iter([rows]):
            instance = info["model"].from_db(DEFAULT_DB_ALIAS, names, row[start:end])
            for populator in populators:
                populator.populate(row, instance)
            made.append(instance)
        return made


class Insert(Generic[M]):
    """Writes new rows whose primary keys are known, as `bulk_create` does."""

    def __init__(self, model: type[M]) -> None:
        self._model = model

    def __call__(self, rows: Sequence[M]) -> None:
        if not rows:
            return
        values = [
            field.get_db_prep_save(field.pre_save(row, add=True), connection)
            for row in rows
            for field in self._fields
        ]
        marks = ", ".join([self._marks] * len(rows))
        with connection.cursor() as cursor:
            cursor.execute(f"{self._sql} VALUES {marks}", values)
        for row in rows:
            row._state.adding = False
            row._state.db = DEFAULT_DB_ALIAS

    @cached_property
    def _fields(self) -> "Sequence[Field[Any, Any]]":
        return self._model._meta.concrete_fields

    @cached_property
    def _sql(self) -> str:
        quote = connection.ops.quote_name
        columns = ", ".join(quote(str(field.column)) for field in self._fields)
        return f"INSERT INTO {quote(self._model._meta.db_table)} ({columns})"

    @cached_property
    def _marks(self) -> str:
        return "({})".format(", ".join(["%s"] * len(self._fields)))

"""Querysets and inserts whose SQL is made once. Knows no model.

Django builds the SQL of a queryset anew each time, which takes a request longer than PostgreSQL's answer does. What is
asked at every request is written as any queryset, with stand-ins for what changes, and compiled at its first use; its
plan is kept as well.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Model, QuerySet
from django.db.models.query import get_related_populators

from generation.infra.prepared import Statement

M = TypeVar("M", bound=Model)


class Compiled(Generic[M]):
    """Use it as `found = rows.all(slug="mug")`.

    build: called once with the stand-ins by name; returns a queryset of whole or deferred rows with select_related, no
    annotations, no prefetch_related. stand_ins: values of the right types that occur nowhere else in the query.
    is_versioned: each row gets `version`, a text that changes with it and with the rows that it is joined with.
    """

    def __init__(
        self, build: Callable[..., QuerySet[M]], *, is_versioned: bool = False, **stand_ins: Any
    ) -> None:
        self._build = build
        self._is_versioned = is_versioned
        self._stand_ins: Mapping[str, str] = {str(value): name for name, value in stand_ins.items()}
        self._given = stand_ins
        self._compiler: Any = None
        self._statement = Statement("")
        self._guard = threading.Lock()

    def all(self, **values: Any) -> list[M]:
        """The rows with these values in place of the stand-ins."""
        if self._compiler is None:
            self._compile()
        with connection.cursor() as cursor:
            cursor.execute(self._statement.call(), values)
            rows = cursor.fetchall()
        if not rows or not self._is_versioned:
            return self._instances(rows)
        found = self._instances([row[1:] for row in rows])
        for instance, row in zip(found, rows, strict=True):
            instance.version = row[0]  # type: ignore[attr-defined]
        return found

    def first(self, **values: Any) -> M | None:
        """The first of the rows; the queryset should be limited to one."""
        return next(iter(self.all(**values)), None)

    def _compile(self) -> None:
        with self._guard:
            if self._compiler is not None:
                return
            compiler = self._build(**self._given).query.get_compiler(DEFAULT_DB_ALIAS)
            sql, parameters = compiler.as_sql()
            names = [self._stand_ins.get(str(value)) for value in parameters]
            if missing := set(self._given) - set(names):
                raise ValueError(f"The queryset lost {', '.join(sorted(missing))}.")
            # What does not change is written out: only so can a plan use an index that is for some rows.
            with connection.cursor() as cursor:
                marks = [
                    f"%({name})s"
                    if name
                    else cursor.mogrify("%s", [value]).decode().replace("%", "%%")
                    for name, value in zip(names, parameters, strict=True)
                ]
            sql = sql % tuple(marks)
            if self._is_versioned:
                tables = dict.fromkeys(column.alias for column, *_ in compiler.select)
                versions = ", ".join(f"{connection.ops.quote_name(name)}.xmin" for name in tables)
                sql = f"SELECT concat_ws(' ', {versions}), {sql.removeprefix('SELECT ')}"
            self._statement = Statement(sql)
            self._read_shape(compiler)
            self._compiler = compiler

    def _read_shape(self, compiler: Any) -> None:
        """What Django's ModelIterable finds out for each queryset again."""
        info = compiler.klass_info
        fields = info["select_fields"]
        self._own = slice(fields[0], fields[-1] + 1)  # the columns of the row itself
        self._names = [compiler.select[place][0].target.attname for place in fields]
        self._class: type[M] = info["model"]
        self._converters = compiler.get_converters([column for column, *_ in compiler.select])
        # The stubs describe a later Django than the one that is required.
        self._populators = get_related_populators(info, compiler.select, DEFAULT_DB_ALIAS)  # type: ignore[call-arg]

    def _instances(self, rows: list[Any]) -> list[M]:
        """As Django's ModelIterable makes them."""
        made = []
        for row in map(tuple, self._compiler.apply_converters(rows, self._converters)):
            instance = self._class.from_db(DEFAULT_DB_ALIAS, self._names, row[self._own])
            for populator in self._populators:
                populator.populate(row, instance)
            made.append(instance)
        return made


class Insert(Generic[M]):
    """Writes new rows whose primary keys are known, as `bulk_create` does.

    where: SQL without which nothing is written; returning: SQL whose values are returned; both with %(name)s for what
    changes. settings: of the Statement.
    """

    def __init__(
        self, model: type[M], *, where: str = "", returning: str = "", settings: str = ""
    ) -> None:
        self._model = model
        self._where = where
        self._returning = returning
        self._settings = settings

    def __call__(self, rows: Sequence[M], **values: Any) -> list[tuple[Any, ...]]:
        if not rows:
            return []
        with connection.cursor() as cursor:
            cursor.execute(self._statement.call(), {"rows": as_json(rows), **values})
            returned = cursor.fetchall() if self._returning else []
        for row in rows:
            row._state.adding = False
            row._state.db = DEFAULT_DB_ALIAS
        return returned

    @cached_property
    def _statement(self) -> Statement:
        table = connection.ops.quote_name(self._model._meta.db_table)
        return Statement(
            f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %(rows)s::jsonb)"
            + (f" WHERE {self._where}" if self._where else "")
            + (f" RETURNING {self._returning}" if self._returning else ""),
            settings=self._settings,
        )


def as_json(rows: Sequence[Model]) -> str:
    """For jsonb_populate_recordset. Fields of binary data are not for it."""
    return json.dumps(as_rows(rows), default=str)


def as_rows(rows: Sequence[Model]) -> list[dict[str, Any]]:
    """The values of new rows by column."""
    return [
        {str(field.column): field.pre_save(row, add=True) for field in row._meta.concrete_fields}
        for row in rows
    ]

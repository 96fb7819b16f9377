"""Helpers for hand-written SQL of statements that every request runs: the ORM takes longer to build them than
PostgreSQL to run them."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import JSONField, Model

M = TypeVar("M", bound=Model)


def names(model: type[Model], *, without: str = "") -> list[str]:
    """Return the columns of the model's table, which equal its attribute names."""
    return [field.attname for field in model._meta.concrete_fields if field.attname != without]


def values(row: Model, *, without: str = "") -> list[Any]:
    """Return the values of a new row, in the order of `names`."""
    fields = row._meta.concrete_fields
    return [field.pre_save(row, True) for field in fields if field.attname != without]


def insert(rows: Sequence[Model], *, now: str = "") -> None:
    """Insert rows of one model that has no JSONField. now: column to set to PostgreSQL's time, and to read back."""
    with connection.cursor() as cursor:
        given = [one for row in rows for one in values(row, without=now)]
        cursor.execute(_insert(type(rows[0]), len(rows), now), given)
        if now:
            for row, (time,) in zip(rows, cursor.fetchall(), strict=True):
                setattr(row, now, time)
    for row in rows:
        row._state.adding = False


@cache
def _insert(model: type[Model], count: int, now: str) -> str:
    columns = names(model)
    each = ["statement_timestamp()" if name == now else "%s" for name in columns]
    places = f"({', '.join(each)})"
    return (
        f"INSERT INTO {model._meta.db_table} ({', '.join(columns)})"
        f" VALUES {', '.join([places] * count)}{f' RETURNING {now}' if now else ''}"
    )


def instance(model: type[M], columns: Sequence[str], read: Iterable[Any]) -> M:
    """Return a model instance made from a row. columns: names of the values; other columns are deferred."""
    decoded = [
        json.loads(value) if name in _of_json(model) and value is not None else value
        for name, value in zip(columns, read, strict=True)
    ]
    return model.from_db(DEFAULT_DB_ALIAS, columns, decoded)


@cache
def _of_json(model: type[Model]) -> frozenset[str]:
    fields = model._meta.concrete_fields
    return frozenset(field.attname for field in fields if isinstance(field, JSONField))

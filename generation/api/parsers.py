"""Parsers of request bodies: one JSON object in UTF-8, restricted to values that can be stored."""

import json
import math
from typing import IO, Any, NoReturn

from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import JSONParser

from generation.infra.database import UNSTORABLE

LARGEST = 2**63 - 1
MAX_VALUES = 1000  # each may be a separate error, slow to report
MAX_VALUES_OF_IMPORT = 100_000
MAX_DEPTH = 32  # the answer and PostgreSQL's driver write the values again, with recursion


class StrictJSON(JSONParser):
    """JSON parser that ignores a charset in Content-Type: JSON between programs is UTF-8 (RFC 8259)."""

    max_values = MAX_VALUES

    def parse(
        self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None
    ) -> dict[str, Any]:
        try:
            value = json.loads(
                stream.read().decode(),
                object_pairs_hook=_object,
                parse_int=_integer,
                parse_float=_number,
                parse_constant=_constant,
            )
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8: {error.reason} at {error.start}.") from error
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}.") from error
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error
        if not isinstance(value, dict):
            raise ValidationError("The body must be one JSON object.")
        _check(value, self.max_values)
        return value


class ImportJSON(StrictJSON):
    """Parser for imports of many rows."""

    max_values = MAX_VALUES_OF_IMPORT


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ParseError(f"The body has the name {name!a} more than once.")
        found[name] = value
    return found


def _integer(literal: str) -> int:
    if len(literal) > 20 or abs(int(literal)) > LARGEST:
        raise ParseError(f"The number {literal[:20]} is too large.")
    return int(literal)


def _number(literal: str) -> float:
    if not math.isfinite(value := float(literal)):
        raise ParseError(f"The number {literal[:20]} is too large.")
    return value


def _constant(name: str) -> NoReturn:
    raise ParseError(f"{name} is not JSON.")


def _check(value: dict[str, Any], max_values: int) -> None:
    waiting: list[tuple[Any, int]] = [(value, 1)]  # with their depth
    count = 0
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, dict | list):
            count += len(part)
            if count > max_values:
                raise ParseError(f"The body has more than {max_values} values.")
            if depth > MAX_DEPTH:
                raise ParseError(f"The body is nested deeper than {MAX_DEPTH} levels.")
            waiting += [(inner, depth + 1) for inner in part]
        if isinstance(part, dict):
            waiting += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, str) and UNSTORABLE.search(part):
            raise ParseError("A text in the body contains a NUL character or a lone surrogate.")

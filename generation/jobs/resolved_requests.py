"""What requests that say no model meant of late, and the rows that it was read from. Knows nothing of who asks.

A job that is made of it is written only if these rows are still as they were, which the statement that writes it finds
out itself, or `holds` before it. So nothing old is used, and what is asked for again and again is not read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from generation.infra.prepared import Statement
from generation.models import Embedding, PromptVariant, Release

MOST_KNOWN = 1000  # wordings
# Of Insert: whether the rows are as they were; the releases are those of `releases.in_service`.
HOLDS = """
    (SELECT concat_ws(' ', e.xmin, v.xmin) FROM generation_embedding e
       JOIN generation_promptvariant v ON v.id = e.variant_id
      WHERE e.id = %(embedding)s::bigint) = %(wording)s::text
    AND (SELECT string_agg(r.xmin::text, ' ' ORDER BY r.id) FROM generation_release r
          WHERE r.status = 'active' OR r.canary_percent > 0) = %(in_service)s::text
"""


@dataclass(frozen=True)
class Known:
    """variant: with its embeddings; in_service: as `releases.in_service`. Shared by threads: nobody changes them."""

    variant: PromptVariant
    in_service: Sequence[Release]

    def rows(self, embedding: Embedding) -> dict[str, Any]:
        """The values for HOLDS. embedding: of the variant."""
        return {
            "embedding": embedding.pk,
            "wording": embedding.version,
            "in_service": " ".join(
                row.version for row in sorted(self.in_service, key=lambda row: row.pk)
            ),
        }


_known: dict[tuple[str | None, str | None], Known] = {}


def find(slug: str | None, text: str | None) -> Known | None:
    """What this slug or this text meant."""
    return _known.get((slug, text))


def holds(known: Known, embedding: Embedding) -> bool:
    """Whether the rows are as they were. embedding: of the variant."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDS.call(), known.rows(embedding))
        return bool(cursor.fetchone()[0])


_HOLDS = Statement(f"SELECT {HOLDS}")


def keep(slug: str | None, text: str | None, known: Known) -> None:
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    _known[slug, text] = known

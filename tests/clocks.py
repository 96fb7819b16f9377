"""The clock of this host, shifted: PostgreSQL's stays."""

from datetime import datetime, timedelta, tzinfo

import pytest
from django.utils import timezone


def shift(patch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Shift `timezone.now`, also where it is the default of a column."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    patch.setattr(timezone, "datetime", Shifted)

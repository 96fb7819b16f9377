"""Input of the checker, and the violations that it returns."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.log import ClientLog
from tests.chaos.receiver import Tick

Rows = Sequence[Sequence[Any]]

# Every change of a job's status, by whatever statement.
TRIGGER = """
CREATE TABLE IF NOT EXISTS chaos_transition (
    number bigserial PRIMARY KEY, job_id uuid NOT NULL, old text NOT NULL, new text NOT NULL, cache text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE OR REPLACE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO chaos_transition (job_id, old, new, cache) VALUES (NEW.id, '', NEW.status, NEW.cache);
    ELSIF OLD.status IS DISTINCT FROM NEW.status THEN
        INSERT INTO chaos_transition (job_id, old, new, cache) VALUES (NEW.id, OLD.status, NEW.status, NEW.cache);
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS chaos_note ON generation_job;
CREATE TRIGGER chaos_note AFTER INSERT OR UPDATE ON generation_job FOR EACH ROW EXECUTE FUNCTION chaos_note();
"""


@dataclass(frozen=True)
class Violation:
    """A broken invariant. invariant: its name. subject: the job, image, file or other object that breaks it."""

    invariant: str
    subject: str
    detail: str


@dataclass
class Evidence:
    """Input of the checker. query: returns the rows of a statement. received: the receiver's count by message id."""

    query: Callable[..., Rows]
    media: Path
    log: ClientLog
    received: Mapping[str, int] = field(default_factory=dict)
    messages: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ticks: Sequence[Tick] = ()
    active: Mapping[str, str] = field(
        default_factory=dict
    )  # by kind, the release that was activated last


def age(media: Path, seconds: float) -> None:
    """Make all files and folders so much older, as if the time had passed."""
    for path in media.rglob("*"):
        with suppress(FileNotFoundError):  # removed meanwhile
            seen = path.stat()
            os.utime(path, (seen.st_atime - seconds, seen.st_mtime - seconds))

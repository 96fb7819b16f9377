"""Rows of a design's candidates: the only module that changes them."""

from django.db import transaction

from distillation.design.candidates import Candidate, Choose
from distillation.models import Design, DesignCandidate


class Rows:
    """`design.search.Journal` in PostgreSQL."""

    def __init__(self, design: Design) -> None:
        self._design = design

    def read(self) -> list[Candidate]:
        rows = DesignCandidate.objects.filter(design=self._design).order_by("number")
        return [
            Candidate.from_json(
                row.number,
                {"params": row.params, "costs": row.costs, "rungs": row.rungs, "refused": row.refused},
            )
            for row in rows
        ]  # fmt: skip

    def add(self, choose: Choose) -> Candidate | None:
        with transaction.atomic():
            # One process at a time chooses, so that no two choose the same candidate.
            Design.objects.select_for_update().get(pk=self._design.pk)
            known = self.read()
            params = choose(known)
            if params is None:
                return None
            row = DesignCandidate.objects.create(
                design=self._design, number=len(known), params=dict(params)
            )
        return Candidate(row.number, dict(params))

    def keep(self, candidate: Candidate) -> None:
        rows = DesignCandidate.objects.filter(design=self._design, number=candidate.number)
        rows.update(**candidate.as_json())

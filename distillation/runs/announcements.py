"""Mail to the people of EMAIL_TO that a candidate waits for their decision. Sent once for each run.

The time is stored after the mail was accepted, so an unavailable mail server delays mails but loses none.
"""

import structlog
from django.conf import settings
from django.core.mail import mail_managers
from django.urls import reverse
from django.utils import timezone

from distillation.models import Run
from distillation.reports import explanation, prompt_changes
from distillation.runs import approval

log = structlog.get_logger(__name__)


def announce() -> int:
    """Send a mail for each candidate that waits and was not announced. Return their number. Idempotent."""
    if not settings.MANAGERS:
        return 0
    sent = 0
    for run in approval.waiting().filter(announced_at=None):
        subject, text = message(run)
        try:
            mail_managers(subject, text)
        except OSError as error:  # SMTP's errors are among them; the next sweep tries again
            log.warning("candidate_not_announced", run=run.name, reason=str(error))
            return sent
        Run.objects.filter(pk=run.pk).update(announced_at=timezone.now())
        log.info("candidate_announced", run=run.name)
        sent += 1
    return sent


def message(run: Run) -> tuple[str, str]:
    """Return subject and text of the mail."""
    found = explanation.explain(run.gate) if run.gate else None
    page = reverse("admin:distillation_run_change", args=[run.pk])
    new = approval.new_prompts(run)
    lines = [
        f"The run {run.name} has ended. Its release waits for a person, and serves no job until then.",
        "",
        *([found.found, found.advice, ""] if found else []),
        *([changed, ""] if (changed := prompt_changes.sentences(run.prompts)) else []),
        *(
            [f"{approval.new_prompts_title(new)}: {approval.compare_url(run, new=True)}"]
            if new
            else []
        ),
        f"Compare it blindly, side by side: {approval.compare_url(run, blind=True)}",
        f"Decide in the admin, under Runs: {page}",
    ]
    return f"{run.name} waits for your decision", "\n".join(lines)

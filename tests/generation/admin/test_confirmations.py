"""Confirmations of actions that cannot be undone, on an object's page and from the list."""

import pytest
from django.test import Client
from django.urls import reverse

from generation.models import APIKey, Release
from generation.releases import activation
from generation.releases import lifecycle as releases
from tests.factories import make_job, make_key, make_release, make_user, make_variant, make_worker
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(model: str, page: str, *args: object) -> str:
    return reverse(f"admin:generation_{model}_{page}", args=args)


def run_list_action(client: Client, model: str, name: str, *objects, **given: str):
    data = {"action": name, "_selected_action": [obj.pk for obj in objects], **given}
    return client.post(url(model, "changelist"), data, follow=True)


def text(answer) -> str:
    return " ".join(answer.content.decode().split())


def test_keys_are_revoked_only_after_a_confirmation(admin):
    keys = [make_key(name=name)[0] for name in ("one", "two")]
    page = run_list_action(admin, "apikey", "revoke", *keys)
    assert text(page).count("This cannot be undone") == 2
    assert not APIKey.objects.exclude(revoked_at=None).exists()
    assert "This cannot be undone" in text(admin.get(url("apikey", "change", keys[0].pk)))
    page = run_list_action(admin, "apikey", "revoke", *keys, confirmed="1")
    assert "2 keys were revoked." in text(page)
    assert APIKey.objects.exclude(revoked_at=None).count() == 2


def test_a_confirmation_keeps_the_filter_of_the_list_and_names_twenty_rows(admin):
    keys = [make_key(name=f"key-{number}")[0] for number in range(22)]
    data = {"action": "revoke", "_selected_action": [key.pk for key in keys]}
    page = text(admin.post(url("apikey", "changelist") + "?q=key", data))
    assert "and 2 more" in page and page.count("This cannot be undone") == 20
    assert 'action="/admin/generation/apikey/?q=key"' in page
    assert page.count('name="_selected_action"') == 22


def test_a_release_is_rejected_from_the_list_only_after_a_confirmation(admin):
    make_release(name="one")
    candidate = make_release(name="two", status="candidate")
    assert "can never be served" in text(run_list_action(admin, "release", "reject", candidate))
    assert Release.objects.get(name="two").status == "candidate"
    run_list_action(admin, "release", "reject", candidate, confirmed="1")
    assert Release.objects.get(name="two").status == "rejected"


def test_the_form_of_a_key_preselects_only_the_scopes_that_pictures_need(admin):
    form = admin.get(url("apikey", "add")).context["adminform"].form
    assert set(form["scopes"].value()) == {"jobs:write", "jobs:read", "variants:read"}


def test_the_confirmation_lists_the_prompts_that_change_their_release(admin, settings):
    slugs = ["one", "three", "two"]
    for slug in slugs:
        make_variant(slug=slug)
    make_variant(slug="gone", status="archived")
    make_release(name="slow", kind="teacher")
    wide = make_release(name="wide", covered_variants=[*slugs, "gone"])
    narrow = make_release(name="narrow", status="candidate", covered_variants=["one", "other"])
    page = text(admin.get(url("release", "change", narrow.pk)))
    assert (
        "2 prompt variants will change from wide to slow, the teacher, which is slower: three, two."
        in page
    )
    assert "1 prompt variant will change from wide to narrow: one." in page
    settings.UNCOVERED = "refuse"
    page = text(run_list_action(admin, "release", "activate", narrow))
    assert "2 prompt variants of wide will have no release" in page
    make_release(name="beside", status="specialist", covered_variants=["two"])
    page = text(admin.get(url("release", "change", narrow.pk)))
    assert (
        "1 prompt variant of wide will have no release" in page
        and "it will be refused: three." in page
    )
    assert "1 prompt variant will change from wide to beside: two." in page
    wider = make_release(name="wider", status="candidate", covered_variants=[*slugs, "four"])
    page = text(admin.get(url("release", "change", wider.pk)))
    assert "3 prompt variants will change from wide to wider: one, three, two." in page
    assert "no release" not in page
    Release.objects.filter(pk=wide.pk).update(status="retired")
    Release.objects.filter(pk=narrow.pk).update(status="active", replaced=wide)
    page = text(admin.get(url("release", "change", narrow.pk)))
    assert "1 prompt variant without a release will be served by wide: three." in page


def test_a_release_that_cannot_be_activated_is_refused_before_waiting_for_workers(
    admin, monkeypatch
):
    monkeypatch.setattr(activation.time, "sleep", lambda seconds: pytest.fail("It waits."))
    make_worker()  # a worker without a loaded release
    make_release(name="one")
    rejected = make_release(name="two", status="rejected")
    page = run_list_action(admin, "release", "activate", rejected, confirmed="1")
    assert "Activate does not fit the state of two. Nothing was changed." in text(page)
    for release in (rejected, Release.objects.get(name="one")):
        page = run_list_action(admin, "release", "canary", release)
        assert f"Start canary does not fit the state of {release}. Nothing was changed." in text(
            page
        )
    make_release(name="three", status="candidate")
    Release.objects.filter(name="three").update(canary_percent=10)
    four = make_release(name="four", status="candidate")
    page = run_list_action(admin, "release", "canary", four, confirmed="1", percent="5")
    assert "three is the canary" in text(page)


def test_a_canary_asks_for_its_share(admin, settings, monkeypatch):
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)
    make_release(name="one")
    two = make_release(name="two", status="candidate")
    field = f'name="percent" min="1" max="99" value="{settings.CANARY_PERCENT}"'
    assert field in text(admin.get(url("release", "change", two.pk)))
    assert field in text(run_list_action(admin, "release", "canary", two))
    do = url("release", "do", two.pk, "canary")
    for percent, said in (("", "give a whole number"), ("100", "from 1 to 99 %")):
        assert said in text(admin.post(do, {"percent": percent}, follow=True))
        assert Release.objects.get(name="two").canary_percent == 0
    assert "two serves 7 % of jobs." in text(admin.post(do, {"percent": "7"}, follow=True))
    assert Release.objects.get(name="two").canary_percent == 7


def test_a_specialist_is_activated_and_retired_after_a_confirmation(admin, settings):
    for name in ("main", "vases"):
        make_tiny_release(settings.RELEASES_ROOT / name, name=name, kind="student")
        releases.register(settings.RELEASES_ROOT / name)
    releases.activate(Release.objects.get(name="main"))
    vases = Release.objects.get(name="vases")
    page = run_list_action(admin, "release", "specialist", vases)
    assert "for prompts that no other student covers" in text(page)
    assert Release.objects.get(name="vases").status == "candidate"
    page = run_list_action(admin, "release", "specialist", vases, confirmed="1")
    assert "vases is a specialist" in text(page)
    page = text(admin.get(url("release", "change", vases.pk)))
    assert "Retire specialist" in page and "Activate as specialist" not in page
    assert "will use other releases for the prompts of vases" in page
    page = run_list_action(admin, "release", "retire", vases, confirmed="1")
    assert "vases is retired" in text(page)
    statuses = dict(Release.objects.values_list("name", "status"))
    assert statuses == {"main": "active", "vases": "retired"}


def test_an_action_that_needs_a_question_never_runs_on_rows_that_it_does_not_fit(admin):
    first = make_release(name="first", status="retired")
    second = make_release(name="second")
    Release.objects.filter(pk=second.pk).update(replaced=first)
    special = make_release(name="special", status="specialist")
    before = dict(Release.objects.values_list("name", "status"))
    for name, release in (("rollback", first), ("reject", special)):
        for given in ({}, {"confirmed": "1"}):
            page = text(run_list_action(admin, "release", name, release, **given))
            assert f"does not fit the state of {release}" in page
        page = text(admin.post(url("release", "do", release.pk, name), follow=True))
        assert f"does not fit the state of {release}" in page
    assert dict(Release.objects.values_list("name", "status")) == before


def test_the_question_and_the_action_leave_out_the_rows_that_do_not_fit(admin):
    running, ended = make_job(status="running"), make_job(status="failed")
    page = run_list_action(admin, "job", "delete_images", running, ended)
    assert "1 of 2 jobs is left out" in text(page)
    assert page.context["ids"] == [ended.pk]
    run_list_action(admin, "job", "delete_images", running, ended, confirmed="1")
    for job in (running, ended):
        job.refresh_from_db()
    assert running.purged_at is None and running.status == "running"
    assert ended.purged_at is not None

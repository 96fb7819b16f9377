"""The admin through its real pages: permissions, form errors, actions."""

import io
import json
import re
import tempfile
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image as Picture
from redis import Redis
from structlog.testing import capture_logs

from generation.catalogue import variants as catalogue
from generation.images import storage
from generation.infra import beat_lock, redis_client
from generation.models import (
    APIKey,
    Attempt,
    AuditEntry,
    Image,
    Job,
    OwnerLimits,
    PromptVariant,
    Queue,
    Release,
    StockedImage,
    Usage,
    Worker,
)
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_key,
    make_release,
    make_user,
    make_variant,
    make_worker,
)
from tests.storage_faults import break_storage

pytestmark = pytest.mark.django_db

Status = Job.Status


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def staff(*permissions: str) -> Client:
    user = make_user(username="editor", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def url(model: str, page: str, *args: object) -> str:
    return reverse(f"admin:generation_{model}_{page}", args=args)


def run_action(client: Client, obj, name: str):
    return client.post(url(obj._meta.model_name, "do", obj.pk, name), follow=True)


def run_list_action(client: Client, model: str, name: str, *objects):
    """Run an action on the list; confirm it if the action asks for a confirmation."""
    data = {"action": name, "_selected_action": [obj.pk for obj in objects], "confirmed": "1"}
    return client.post(url(model, "changelist"), data, follow=True)


def notices(answer) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


# --- every page -----------------------------------------------------------------------------------
@pytest.fixture
def rows() -> dict:
    release = make_release(has_encoder=True)
    job = make_job(status=Status.SUCCEEDED, worker_name="worker-1")
    make_image(job=job)
    Attempt.objects.create(job=job, number=1, worker_name="worker-1", batch_size=2)
    make_job(status=Status.FAILED)
    make_worker(release=release)
    key, _ = make_key()
    return {"promptvariant": job.variant, "job": job, "release": release, "apikey": key}


def test_every_page_opens_with_rows_and_has_a_title_which_is_that_of_the_menu_for_a_list(
    admin, rows
):
    menu = admin.get(reverse("admin:index")).context["sidebar_navigation"]
    named = {str(link["link"]): link["title"] for group in menu for link in group["items"]}
    assert {"Periodic tasks", "Webhooks", "Webhook deliveries", "Stock"} <= set(named.values())
    pages = [reverse("admin:index"), reverse("admin:app_list", args=["generation"])]
    pages += [url(model, "change", row.pk) for model, row in rows.items()]
    lists = [
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for model in site._registry  # of all apps
    ]
    assert set(named) <= set(lists)
    for page in [*pages, *lists, url("promptvariant", "add"), url("promptvariant", "import")]:
        answer = admin.get(page)
        title = answer.content.decode().split("<title>", 1)[1].split("</title>", 1)[0]
        begin = title.split("|")[0].strip()
        assert answer.status_code == 200 and begin and "Retort" in title, page
        assert begin == named.get(page, begin)
    for model in (*rows, "worker"):
        assert admin.get(url(model, "changelist"), {"q": "worker vase"}).status_code == 200


@pytest.mark.parametrize(
    "page", ["admin:auth_user_changelist", "admin:auth_group_add", "admin:auth_user_add"]
)
def test_users_and_groups_have_their_pages(admin, page):
    assert admin.get(reverse(page)).status_code == 200


def test_the_first_page_shows_the_figures_and_the_latest_pictures(admin, rows):
    html = admin.get(reverse("admin:index")).content.decode()
    for word in ("Queued", "Failed", "Workers", "Catalogue", rows["release"].name):
        assert word in html
    assert url("job", "image", rows["job"].images.get().pk, "thumbnail") in html


def test_the_first_page_reports_that_beat_or_the_light_worker_is_missing(admin, redis_server):
    def card() -> dict:
        cards = admin.get(reverse("admin:index")).context["cards"]
        return next(card for card in cards if card["title"] == "Periodic tasks")

    assert card()["is_bad"]
    assert card()["note"] == "beat and the light worker do not run: start them"
    redis_server.set(beat_lock.NAME, "a beat")
    assert card()["note"] == "the light worker does not run: start it"
    make_worker(name="light", queue="light")
    assert (card()["value"], card()["is_bad"]) == ("run", False)


@pytest.mark.parametrize(
    ("page", "status"), [("/admin/nowhere/", 404), ("/admin/generation/release/", 403)]
)
def test_errors_in_the_admin_are_pages_of_retort(page, status):
    answer = staff("view_job").get(page, headers={"Accept": "text/html"})
    html = answer.content.decode()
    assert answer.status_code == status
    assert "page.css" in html and 'href="/admin/">Back to the admin' in html and "Log out" in html


@pytest.mark.parametrize("query", ["q=%00", "status__exact=%00", "tag=vase%00", "%00=1", "o=%00"])
@pytest.mark.parametrize("model", ["promptvariant", "job", "auditentry"])
def test_a_query_with_a_nul_is_refused_with_a_message(admin, model, query):
    page = url(model, "changelist")
    answer = admin.get(f"{page}?{query}", headers={"Accept": "text/html"})
    assert answer.status_code == 400
    assert "NUL" in answer.content.decode() and "Back to the admin" in answer.content.decode()


@pytest.mark.parametrize(
    "page",
    [
        "/admin/search/?s=a&page=0",
        "/admin/search/?s=a&page=x",
        f"/admin/generation/promptvariant/?change={'9' * 4301}",
        "/admin/r/{job}/x/",
    ],
)
def test_an_odd_value_in_an_address_of_the_admin_is_refused_with_a_message(admin, rows, page):
    page = page.format(job=ContentType.objects.get_for_model(Job).pk)
    with capture_logs() as lines:
        refused(admin.get(page, headers={"Accept": "text/html"}))
    (logged,) = [line for line in lines if line["event"] == "admin_request_refused"]
    assert logged["log_level"] == "error" and logged["exc_info"]


@pytest.mark.parametrize("model", ["job", "promptvariant", "apikey", "release"])
def test_an_action_on_rows_with_odd_ids_is_refused_with_a_message(admin, rows, model):
    names = {"job": "cancel", "promptvariant": "archive", "apikey": "revoke", "release": "reject"}
    sent = {"action": names[model], "_selected_action": "x"}
    page = url(model, "changelist")
    refused(admin.post(page, sent, headers={"Accept": "text/html"}))


def test_a_bug_that_looks_like_an_odd_value_is_logged_with_its_traceback(admin, monkeypatch):
    def broken(self, request):
        raise ValueError("a bug")

    monkeypatch.setattr(type(site._registry[Job]), "get_queryset", broken)
    with capture_logs() as lines:
        refused(admin.get(url("job", "changelist"), headers={"Accept": "text/html"}))
    (logged,) = [line for line in lines if line["event"] == "admin_request_refused"]
    assert str(logged["exc_info"]) == "a bug" and logged["exc_info"].__traceback__


def test_other_errors_of_the_admin_remain_server_errors(admin, monkeypatch):
    def broken(self, request):
        raise KeyError("a bug")

    monkeypatch.setattr(type(site._registry[Job]), "get_queryset", broken)
    with pytest.raises(KeyError):
        admin.get(url("job", "changelist"))


def refused(answer) -> None:
    html = answer.content.decode()
    assert answer.status_code == 400
    assert "cannot read a value" in html and "Back to the admin" in html


def test_the_first_page_shows_nothing_to_staff_without_permissions(rows):
    html = staff().get(reverse("admin:index")).content.decode()
    assert "Queued" not in html and "/image/" not in html


@pytest.mark.parametrize("model", ["promptvariant", "job"])
def test_a_list_of_many_rows_costs_no_more_queries_than_one_of_few(
    admin, django_assert_max_num_queries, model
):
    release = make_release(has_encoder=True)
    for number in range(12):
        embedding = make_embedding(variant=make_variant(slug=f"v{number}"))
        make_image(job=make_job(embedding=embedding, release=release, status=Status.SUCCEEDED))
    admin.get(url(model, "changelist"))
    # The list of the catalogue also counts all variants, and reads the counts of the serving releases.
    with django_assert_max_num_queries(18 if model == "promptvariant" else 12):
        assert admin.get(url(model, "changelist")).status_code == 200


def test_without_a_login_nothing_is_shown(rows, client):
    for page in (url("job", "changelist"), url("job", "now", rows["job"].pk)):
        answer = client.get(page)
        assert answer.status_code == 302 and "login" in answer["Location"]


# --- prompt variants ------------------------------------------------------------------------------
def fields(**changed: str) -> dict[str, str]:
    return {"text": "a red vase", "slug": "", "tags": "", "status": "active", "notes": ""} | changed


def test_a_variant_is_made_with_a_slug_of_its_text(admin):
    admin.post(url("promptvariant", "add"), fields(text=" A  red vase", tags="glass, still life,"))
    variant = PromptVariant.objects.get()
    assert (variant.slug, variant.text, variant.normalized_text) == (
        "a-red-vase",
        "A red vase",
        "a red vase",
    )
    assert variant.tags == ["glass", "still life"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("word " * 13, "13 words"), ("A  RED vase", "“vase” already has this text")],
)
def test_the_form_applies_the_rules_of_the_catalogue(admin, text, complaint):
    make_variant(slug="vase", text="a red vase")
    answer = admin.post(url("promptvariant", "add"), fields(text=text))
    assert complaint in answer.content.decode()
    assert PromptVariant.objects.count() == 1


def test_changing_a_text_with_images_needs_the_checkbox_for_a_new_revision(admin):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_image(job=make_job(embedding=embedding, status=Status.SUCCEEDED))
    page = url("promptvariant", "change", embedding.variant_id)
    changed = fields(slug="vase", text="a blue vase")

    assert "new revision" in admin.post(page, changed).context["errors"].as_text()
    assert admin.post(page, changed | {"new_revision": "on"}).status_code == 302

    variant = PromptVariant.objects.get()
    assert (variant.text, variant.revision) == ("a blue vase", 2)


def test_notes_that_are_too_long_are_an_error_of_the_form(admin):
    answer = admin.post(url("promptvariant", "add"), fields(notes="x" * 5001))
    assert "at most 5000" in str(answer.context["adminform"].form.errors["notes"])
    variant = make_variant(slug="vase", text="a red vase", notes="x" * 6000)
    longer = fields(slug="vase", tags="glass", notes="x" * 6000)
    assert admin.post(url("promptvariant", "change", variant.pk), longer).status_code == 302
    variant.refresh_from_db()
    assert (variant.tags, len(variant.notes)) == (["glass"], 6000)


def test_a_variants_floor_of_quality_is_set_and_recorded(admin):
    variant = make_variant(slug="vase", text="a red vase")
    place = url("promptvariant", "change", variant.pk)
    assert admin.post(place, fields(slug="vase", quality_floor="0.75")).status_code == 302
    variant.refresh_from_db()
    assert variant.quality_floor == 0.75
    entry = AuditEntry.objects.get(action="variant_edited")
    assert entry.detail == {"quality_floor": [None, 0.75]}


def test_notes_can_be_changed_without_the_checkbox(admin):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_image(job=make_job(embedding=embedding, status=Status.SUCCEEDED))
    admin.post(
        url("promptvariant", "change", embedding.variant_id), fields(slug="vase", notes="kept")
    )
    variant = PromptVariant.objects.get()
    assert (variant.notes, variant.revision) == ("kept", 1)


def test_the_list_is_filtered_by_state_tag_and_status(admin):
    make_release(has_encoder=True)
    make_embedding(variant=make_variant(slug="done", tags=["glass"]))
    make_embedding(variant=make_variant(slug="broken"), error="It has 99 tokens.")
    make_variant(slug="old", status="archived")

    def listed(**query: str) -> list[str]:
        answer = admin.get(url("promptvariant", "changelist"), query)
        return sorted(row.slug for row in answer.context["cl"].result_list)

    assert listed(embedding="encoded") == ["done"]
    assert listed(embedding="failed") == ["broken"]
    assert listed(tag="glass") == ["done"]
    assert listed(status__exact="archived") == ["old"]
    assert "It has 99 tokens." in admin.get(url("promptvariant", "changelist")).content.decode()


def test_a_preview_becomes_a_job_of_the_editor_and_its_page_opens(admin):
    make_release(has_encoder=True)
    variant = make_variant(slug="vase")
    make_embedding(variant=variant)
    answer = run_action(admin, variant, "preview")
    job = Job.objects.get()
    assert (job.variant, job.owner.username, job.status) == (variant, "admin", "queued")
    assert answer.redirect_chain[-1][0] == url("job", "change", job.pk)


def test_a_preview_of_an_unencoded_variant_is_refused_with_the_reason(admin):
    make_release(has_encoder=True)
    answer = run_action(admin, make_variant(slug="vase"), "preview")
    assert "not been encoded yet" in notices(answer)
    assert not Job.objects.exists()


def test_variants_are_encoded_again_archived_and_activated_from_the_list(admin):
    make_release(has_encoder=True)
    one, two = make_variant(slug="one"), make_variant(slug="two", status="draft")
    failed = make_embedding(variant=one, error="It has 99 tokens.")

    run_list_action(admin, "promptvariant", "encode_again", one, two)
    failed.refresh_from_db()
    assert failed.error == catalogue.ENCODE_AGAIN

    run_list_action(admin, "promptvariant", "archive", one)
    run_list_action(admin, "promptvariant", "activate", two)
    assert dict(PromptVariant.objects.values_list("slug", "status")) == {
        "one": "archived",
        "two": "active",
    }


def test_a_variant_is_deleted_with_its_embeddings_unless_jobs_refer_to_it(admin):
    make_release(has_encoder=True)
    free = make_embedding(variant=make_variant(slug="free")).variant
    used = make_job().variant
    for variant in (free, used):
        data = {"action": "delete_selected", "_selected_action": [variant.pk], "post": "yes"}
        admin.post(url("promptvariant", "changelist"), data)
    assert list(PromptVariant.objects.all()) == [used]
    answer = admin.get(url("promptvariant", "delete", used.pk), follow=True)
    assert f"Jobs refer to {used.slug}, so it cannot be deleted. Archive it" in notices(answer)


def test_staff_with_view_permissions_can_change_nothing(rows):
    viewer = staff("view_promptvariant", "view_job", "view_release")
    variant, job = rows["promptvariant"], rows["job"]
    page = viewer.get(url("promptvariant", "change", variant.pk))
    assert page.status_code == 200 and page.context["object_actions"] == []
    assert viewer.get(url("promptvariant", "import")).status_code == 403
    for obj, name in (
        (variant, "archive"),
        (variant, "preview"),
        (job, "retry"),
        (rows["release"], "reject"),
    ):
        assert viewer.post(url(obj._meta.model_name, "do", obj.pk, name)).status_code == 403
    variant.refresh_from_db()
    assert variant.status == "active"


def test_actions_by_get_and_unknown_actions_are_refused(admin, rows):
    assert (
        admin.get(url("promptvariant", "do", rows["promptvariant"].pk, "archive")).status_code
        == 405
    )
    assert (
        admin.post(url("promptvariant", "do", rows["promptvariant"].pk, "delete")).status_code
        == 404
    )


@pytest.mark.parametrize("name", ["job", "release", "promptvariant", "apikey"])
def test_an_action_on_a_missing_object_is_not_found(admin, name):
    action = {"job": "cancel", "release": "reject", "promptvariant": "archive", "apikey": "revoke"}
    for pk in ("x", "0", "9" * 30, "\0"):
        assert admin.post(url(name, "do", pk, action[name])).status_code == 404


# --- import and export ----------------------------------------------------------------------------
def upload(client: Client, content: str, *, follow: bool = False, **data: str):
    file = io.BytesIO(content.encode())
    file.name = "catalogue.csv"
    page = url("promptvariant", "import")
    data = {"import_file": file, "format": "0", "resource": "0"} | data
    return client.post(page, data, follow=follow)


def confirm(client: Client, answer):
    initial = answer.context["confirm_form"].initial
    return client.post(url("promptvariant", "process_import"), initial, follow=True)


def test_a_file_is_previewed_then_imported(admin):
    answer = upload(admin, "text,tags\na red vase,glass\n")
    assert "a-red-vase" in answer.content.decode()
    assert not PromptVariant.objects.exists()
    assert "1 new" in notices(confirm(admin, answer))
    assert PromptVariant.objects.get().tags == ["glass"]


def test_the_preview_of_a_large_file_shows_its_first_changes_and_counts_the_rest(admin):
    for number in range(210):
        make_variant(slug=f"old-{number}", text=f"old {number}")
    old = "".join(f"old {number}\n" for number in range(210))
    new = "".join(f"new {number}\n" for number in range(210))
    answer = upload(admin, f"text\n{old}{new}")
    html = answer.content.decode()
    assert "210 new, 0 changed, 210 unchanged" in " ".join(html.split())
    assert "new-199" in html and "new-200" not in html and "old-0" not in html
    confirm(admin, answer)
    assert PromptVariant.objects.count() == 420


def test_a_wrong_row_is_shown_with_its_reason_and_cannot_be_confirmed(admin):
    answer = upload(admin, f"text\na red vase\n{'word ' * 13}\n")
    assert "13 words" in answer.content.decode()
    assert "confirm_form" not in answer.context


def test_an_unknown_column_is_an_error_of_the_form(admin):
    html = upload(admin, "text,colour\na red vase,red\n").content.decode()
    assert "Unknown columns: colour" in html and "Traceback" not in html


def test_a_character_that_cannot_be_stored_or_shown_is_an_error_of_the_form(admin):
    answer = upload(admin, r'[{"text": "a red vase \ud800"}]', format="1")
    assert "Row 1 has a NUL character or half a surrogate pair" in answer.content.decode()


def test_an_import_that_is_confirmed_twice_is_made_once(admin):
    answer = upload(admin, "text\na red vase\n")
    confirm(admin, answer)
    assert "it was imported, or is a day old. Upload the file again" in notices(
        confirm(admin, answer)
    )
    assert PromptVariant.objects.count() == 1


def test_the_preview_of_an_import_is_kept_in_redis_for_a_day(admin, redis_server):
    answer = upload(admin, "text\na red vase\n")
    (kept,) = redis_server.keys("retort:import:*")
    assert 0 < redis_server.ttl(kept) <= 24 * 3600
    confirm(admin, answer)
    assert PromptVariant.objects.get().text == "a red vase"
    assert redis_server.keys("retort:import:*") == []


@pytest.mark.parametrize(
    ("content", "form", "reason"),
    [
        ("text\n" + "a\n" * 100_001, {}, "at most 100,000 rows and 16 MiB. Split the file"),
        ("[" + ",".join(["{}"] * 100_001) + "]", {"format": "1"}, "at most 100,000 rows"),
        ("text\n" + "a" * 2**24, {}, "at most 100,000 rows and 16 MiB. Split the file"),
        ("text,colour\na red vase,red\n", {}, "Unknown columns"),
        ("text\n", {}, "No valid data"),
        (f"text\na red vase\n{'word ' * 13}\n", {}, "13 words"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_and_not_kept(
    admin, redis_server, content, form, reason
):
    answer = upload(admin, content, **form)
    assert answer.status_code == 200 and reason in answer.content.decode()
    assert "confirm_form" not in answer.context
    assert redis_server.keys("retort:import:*") == []


def test_the_page_of_an_import_says_how_large_a_file_may_be(admin):
    assert (
        "at most 100,000 rows and 16 MiB"
        in admin.get(url("promptvariant", "import")).content.decode()
    )


def test_no_file_of_the_host_is_imported_or_removed(admin, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("text\na red vase\n")
    initial = upload(admin, "text\na blue bowl\n").context["confirm_form"].initial
    for name in (foreign.name, str(foreign), f"../{foreign.name}"):
        form = initial | {"import_file_name": name}
        notice = notices(admin.post(url("promptvariant", "process_import"), form, follow=True))
        assert "Upload the file again" in notice
    assert foreign.exists() and not PromptVariant.objects.exists()


def test_without_redis_nothing_is_imported_and_the_page_reports_it(admin, monkeypatch):
    answer = upload(admin, "text\na red vase\n")
    monkeypatch.setattr(redis_client, "_client", Redis.from_url("redis://127.0.0.1:1"))
    for notice in (confirm(admin, answer), upload(admin, "text\na red vase\n", follow=True)):
        assert "Redis does not answer" in notices(notice)
    assert not PromptVariant.objects.exists()


def test_an_import_that_no_longer_fits_the_catalogue_is_refused_as_a_whole(admin):
    answer = upload(admin, "slug,text\nbowl,a blue bowl\nvase,a red vase\n")
    make_variant(slug="other", text="a red vase")
    notice = notices(confirm(admin, answer))
    assert "Nothing was imported" in notice and "new" not in notice
    assert list(PromptVariant.objects.values_list("slug", flat=True)) == ["other"]


def test_an_import_changes_texts_with_images_only_with_the_checkbox(admin):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_image(job=make_job(embedding=embedding, status=Status.SUCCEEDED))
    content = "slug,text\nvase,a blue vase\n"
    assert "new revision" in upload(admin, content).content.decode()
    confirm(admin, upload(admin, content, new_revisions="on"))
    assert PromptVariant.objects.get().revision == 2


def test_the_catalogue_is_exported_as_csv_and_json(admin):
    make_variant(slug="vase", text="a red vase", tags=["glass", "red"])
    page = url("promptvariant", "export")
    csv = admin.post(page, {"format": "0", "resource": "0"}).content.decode()
    assert csv.split() == ["slug,text,tags,status,notes", "vase,a", "red", "vase,glass|red,active,"]
    (row,) = json.loads(admin.post(page, {"format": "1", "resource": "0"}).content)
    assert row == {
        "slug": "vase",
        "text": "a red vase",
        "tags": ["glass", "red"],
        "status": "active",
        "notes": "",
    }


# --- jobs -----------------------------------------------------------------------------------------
def test_a_job_is_canceled_and_retried(admin):
    job = make_job()
    assert "canceled" in notices(run_action(admin, job, "cancel"))
    job.refresh_from_db()
    assert job.status == "canceled"
    run_action(admin, job, "retry")
    job.refresh_from_db()
    assert job.status == "queued"


def test_a_succeeded_job_is_not_retried_and_the_reason_is_shown(admin, rows):
    answer = run_list_action(admin, "job", "retry", rows["job"])
    assert "another seed" in notices(answer)


def test_of_the_chosen_jobs_only_those_that_have_not_ended_are_canceled(admin, rows):
    waiting = make_job()
    answer = run_list_action(admin, "job", "cancel", rows["job"], waiting)
    assert notices(answer) == "1 of 2 jobs is canceled. The others had ended."
    rows["job"].refresh_from_db()
    assert rows["job"].status == "succeeded"
    (entry,) = LogEntry.objects.filter(change_message="Canceled in the admin.")
    assert entry.object_id == str(waiting.pk)


def test_all_jobs_of_a_filtered_list_are_canceled(admin):
    waiting = [make_job() for _ in range(2)]
    data = {"action": "cancel", "_selected_action": [waiting[0].pk], "select_across": "1"}
    answer = admin.post(f"{url('job', 'changelist')}?status__exact=queued", data, follow=True)
    assert "2 of 2 jobs are canceled." in notices(answer)
    assert Job.objects.filter(status="canceled").count() == 2


def test_jobs_that_failed_with_one_code_are_retried_together(admin):
    wanted = [make_job(status=Status.FAILED, error_code="worker_lost") for _ in range(3)]
    make_job(status=Status.FAILED, error_code="not_finite")
    listed = f"{url('job', 'changelist')}?error=worker_lost"
    assert admin.get(listed).context["cl"].result_count == 3

    data = {"action": "retry", "_selected_action": [wanted[0].pk], "select_across": "1"}
    answer = admin.post(listed, data, follow=True)

    assert "3 of 3 jobs are queued again." in notices(answer)
    queued = Job.objects.filter(status="queued")
    assert {job.pk for job in queued} == {job.pk for job in wanted}
    assert LogEntry.objects.filter(change_message__contains="again in the admin").count() == 3


def test_a_queue_is_paused_and_resumed(admin):
    queue = Queue.objects.get_or_create(name="generation")[0]
    page = admin.get(url("queue", "change", "generation"))
    assert [action["title"] for action in page.context["object_actions"]] == ["Pause"]
    assert "generation is paused" in notices(run_action(admin, queue, "pause"))
    queue.refresh_from_db()
    assert queue.paused_at is not None and queue.paused_by
    assert "paused" in admin.get(url("queue", "changelist")).content.decode()
    assert "generation is running" in notices(run_action(admin, queue, "resume"))
    viewer = staff("view_queue")
    assert viewer.post(url("queue", "do", "generation", "pause")).status_code == 403


def test_times_have_one_format_in_lists_and_on_pages(admin):
    at = datetime(2026, 3, 4, 15, 6, 7, tzinfo=UTC)
    job = make_job(created_at=at)
    for page in (url("job", "changelist"), url("job", "change", job.pk)):
        assert "2026-03-04 15:06 UTC" in admin.get(page).content.decode()
    assert re.search(
        r'title="15:06:07, [^"]+"', admin.get(url("job", "changelist")).content.decode()
    )


def test_stocked_images_are_shown_and_cannot_be_edited(admin):
    job = make_job()
    row = StockedImage.objects.create(
        release=job.release, variant=job.variant, embedding=job.embedding, width=64, height=48,
        format="webp", file="images/aa/a.webp", master="images/aa/a.png", size_bytes=12345,
        image={"seed": 4711},
    )  # fmt: skip

    html = admin.get(url("stockedimage", "changelist"), {"q": job.variant.slug}).content.decode()
    assert "4711" in html and "64×48" in html and job.variant.text in html
    page = url("stockedimage", "change", row.pk)
    assert admin.get(page).status_code == 200
    admin.post(page, {"size_bytes": 1})
    row.refresh_from_db()
    assert row.size_bytes == 12345


def test_the_time_of_a_workers_batches_is_shown(admin):
    worker = make_worker(release=make_release(), queue="generation")
    worker.batch_seconds = {
        f"{worker.release_id}:64x64": {"1": [0.031, 0.04], "8": [0.2, 0.3]},
        "999:64x64": {"1": [0.777, 0.8]},  # of another release
    }
    worker.save()

    html = admin.get(url("worker", "changelist")).content.decode()

    assert "1: 31 ms, 8: 200 ms" in html and "64x64, batches of 4" in html
    assert "777" not in html


def test_the_fault_of_a_worker_is_shown(admin):
    worker = make_worker()
    Worker.objects.filter(pk=worker.pk).update(fault="storage_failed", fault_detail="No space.")
    html = admin.get(url("worker", "changelist")).content.decode()
    assert "faulty" in html and "storage_failed: No space." in html


def test_a_job_offers_only_actions_that_its_status_allows(admin, rows):
    def offered(job: Job) -> list[str]:
        page = admin.get(url("job", "change", job.pk))
        return [action["title"] for action in page.context["object_actions"]]

    assert offered(rows["job"]) == ["Delete images"]
    assert offered(make_job()) == ["Cancel"]
    assert offered(make_job(status=Status.FAILED)) == ["Retry", "Delete images"]
    assert offered(make_job(status=Status.FAILED, purged_at=timezone.now())) == []


def test_deleting_the_images_of_jobs_is_recorded(admin, rows):
    image = rows["job"].images.get()
    assert "deleted permanently" in admin.get(url("job", "change", image.job_id)).content.decode()

    answer = run_list_action(admin, "job", "delete_images", rows["job"])

    assert "The images of 1 job were deleted." in notices(answer)
    assert not Image.objects.filter(pk=image.pk).exists()
    assert not storage.exists(image.file)
    entry = LogEntry.objects.get(object_id=str(image.job_id))
    assert "Images deleted" in entry.change_message
    assert (
        "Its images were deleted" in admin.get(url("job", "change", image.job_id)).content.decode()
    )
    assert "images deleted" in admin.get(url("job", "changelist")).content.decode()


def test_a_failed_job_links_to_the_meaning_of_its_code_and_to_the_remedy(admin):
    facts = {"status": Status.FAILED, "error_detail": "It has 2 bytes."}
    damaged = make_job(error_code="embedding_invalid", **facts)
    cure = url("promptvariant", "change", damaged.variant_id)
    lost = make_job(error_code="worker_lost", seed=2, **facts)

    def linked(job: Job, address: str) -> bool:
        page = admin.get(url("job", "change", job.pk)).content.decode()
        return f'href="{address}"' in page.split("Attempts", 1)[0].split("rt-error", 1)[1]

    assert linked(damaged, reverse("problem", args=["embedding_invalid"]))
    assert linked(damaged, cure) and not linked(lost, cure)


def test_the_list_of_jobs_shows_why_one_failed_and_is_filtered_by_interface_and_owner(admin):
    failed = make_job(status=Status.FAILED, error_detail="It has 2 bytes.", via="page")
    other = make_job(owner=make_user(username="else"), via="openai", seed=2)

    def listed(**query) -> str:
        page = admin.get(url("job", "changelist"), query)
        text = page.content.decode()
        assert page.status_code == 200
        return text.split("result_list", 1)[-1]

    reason = re.sub(r'title="[^"]*"', "", listed())
    assert "It has 2 bytes." in reason
    for query in ({"via__exact": "openai"}, {"owner__id__exact": other.owner_id}):
        page = listed(**query)
        assert str(other.pk) in page and str(failed.pk) not in page


def test_a_job_cannot_be_edited_added_or_deleted(admin, rows):
    job = rows["job"]
    assert admin.post(url("job", "change", job.pk), {"seed": "9"}).status_code == 403
    assert admin.get(url("job", "add")).status_code == 403
    assert admin.post(url("job", "delete", job.pk), {"post": "yes"}).status_code == 403


def test_the_page_of_a_job_shows_images_and_attempts_with_their_errors(admin, rows):
    job = rows["job"]
    Attempt.objects.filter(job=job).update(
        outcome="lost", error_code="worker_lost", error_detail="It went away."
    )
    html = admin.get(url("job", "change", job.pk)).content.decode()
    assert "It went away." in html and "batch of 2" in html
    assert url("job", "image", job.images.get().pk, "full") in html


def test_the_page_of_a_job_polls_its_status(admin, redis_server):
    from generation.infra import notifications

    job = make_job(status=Status.RUNNING)
    notifications.set_progress([job.pk], 40)
    answer = admin.get(url("job", "now", job.pk))
    assert answer.json() == {"status": "running", "percent": 40, "attempt": 1, "is_terminal": False}
    assert "no-store" in answer["Cache-Control"]


# --- images ---------------------------------------------------------------------------------------
def test_staff_who_may_see_jobs_get_the_bytes_with_cache_headers(rows):
    image, viewer = rows["job"].images.get(), staff("view_job")
    answer = viewer.get(url("job", "image", image.pk, "full"))
    assert answer.content == storage.read(image.file)
    assert answer["Content-Type"] == "image/webp"
    assert answer["Cache-Control"] == "private, max-age=31536000, immutable"
    again = viewer.get(
        url("job", "image", image.pk, "full"), headers={"If-None-Match": answer["ETag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_large_image_has_a_small_thumbnail(admin):
    image = make_image(job=make_job(status=Status.SUCCEEDED, width=800, height=400))
    content = admin.get(url("job", "image", image.pk, "thumbnail")).content
    assert Picture.open(io.BytesIO(content)).size == (256, 128)


def test_images_are_not_shown_to_staff_without_the_permission(rows):
    image = rows["job"].images.get()
    assert staff("view_promptvariant").get(url("job", "image", image.pk, "full")).status_code == 403


def test_an_image_whose_file_is_gone_is_not_found(admin, rows):
    image = rows["job"].images.get()
    storage.remove(image.file)
    assert admin.get(url("job", "image", image.pk, "full")).status_code == 404
    assert admin.get(url("job", "image", image.pk, "other")).status_code == 404


@pytest.mark.parametrize("fault", ["not mounted", "unreadable"])
@pytest.mark.parametrize("size", ["full", "thumbnail"])
def test_while_the_storage_fails_no_image_is_reported_as_not_found(
    admin, rows, settings, fault, size
):
    image = rows["job"].images.get()
    break_storage(settings.MEDIA_ROOT, fault, [image])

    answer = admin.get(url("job", "image", image.pk, size))

    assert answer.status_code == 503 and "Retry-After" in answer
    assert "immutable" not in answer.get("Cache-Control", "")


# --- releases and workers -------------------------------------------------------------------------
def test_a_release_is_rejected_and_an_active_one_is_not(admin):
    active, candidate = make_release(name="one"), make_release(name="two")
    assert "two was rejected" in notices(run_action(admin, candidate, "reject"))
    page = run_list_action(admin, "release", "reject", active)
    assert "Reject does not fit the state of one" in notices(page)
    assert dict(Release.objects.values_list("name", "status")) == {
        "one": "active",
        "two": "rejected",
    }


def test_only_the_quality_control_of_a_release_can_be_edited(admin):
    release = make_release(name="one")
    url = reverse("admin:generation_release_change", args=[release.pk])

    answer = admin.post(
        url, {"max_tries": "3", "quality_floor": "0.5", "status": "rejected", "name": "other"}
    )

    assert answer.status_code == 302
    release.refresh_from_db()
    assert (release.max_tries, release.quality_floor) == (3, 0.5)
    assert (release.status, release.name) == ("active", "one")
    assert "less than or equal to 10" in admin.post(url, {"max_tries": "11"}).content.decode()
    assert "less than or equal to 1." in admin.post(url, {"quality_floor": "50"}).content.decode()


def test_a_canary_is_shown_with_its_share_and_ended(admin):
    make_release(name="one")
    canary = make_release(name="two")
    canary.canary_percent = 10
    canary.save()

    assert (
        "10 % of jobs" in admin.get(reverse("admin:generation_release_changelist")).content.decode()
    )
    assert "The canary two has ended" in notices(
        run_list_action(admin, "release", "end_canary", canary)
    )

    canary.refresh_from_db()
    assert (canary.canary_percent, canary.status) == (0, "candidate")


def test_flagged_images_are_found_and_their_faults_shown(admin):
    flagged, good = make_job(status=Status.SUCCEEDED), make_job(status=Status.SUCCEEDED, seed=2)
    for job, is_accepted in ((flagged, False), (good, True)):
        image = make_image(job=job)
        image.is_accepted, image.failing, image.tries = (
            is_accepted,
            [] if is_accepted else ["red"],
            4,
        )
        image.save()

    listed = admin.get(
        reverse("admin:generation_job_changelist") + "?images=flagged"
    ).content.decode()
    page = admin.get(reverse("admin:generation_job_change", args=[flagged.pk])).content.decode()

    assert str(flagged.pk) in listed and str(good.pk) not in listed
    assert "fails: red" in page and "best of 4" in page
    page = admin.get(reverse("admin:generation_job_change", args=[good.pk])).content.decode()
    assert "accepted by the detector" in page
    assert f'download="{good.variant.slug}-{good.seed}.webp"' in page


def test_a_release_whose_files_are_gone_is_not_activated_and_the_reason_is_shown(admin):
    candidate = make_release(name="gone", status=Release.Status.CANDIDATE)
    assert notices(run_action(admin, candidate, "activate"))
    candidate.refresh_from_db()
    assert candidate.status == "candidate"


def test_a_silent_worker_is_marked(admin):
    make_worker(name="one")
    make_worker(name="two", silent_seconds=600)
    html = admin.get(url("worker", "changelist")).content.decode()
    assert html.count("alive") == html.count("not responding") == 1


# --- API keys -------------------------------------------------------------------------------------
def issue(client: Client, **data: object):
    form = {
        "name": "shop",
        "scopes": ["jobs:read"],
        "owner": make_user(username="admin").pk,
        "weight": 1,
    }
    return client.post(url("apikey", "add"), form | data)


def test_a_new_key_is_shown_once_and_never_again(admin):
    answer = issue(admin, scopes=["jobs:read", "jobs:write"])
    plain = answer.context["plain"]
    assert plain in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    key = APIKey.objects.get()
    assert key.matches(plain) and key.scopes == ["jobs:read", "jobs:write"]
    for page in (url("apikey", "changelist"), url("apikey", "change", key.pk)):
        html = admin.get(page).content.decode()
        assert plain[-20:] not in html and key.sha256 not in html


def test_the_form_of_a_key_offers_the_current_user_and_every_scope(admin):
    form = admin.get(url("apikey", "add")).context["adminform"].form
    assert form.initial["owner"] == make_user(username="admin").pk
    assert [choice for choice, _ in form.fields["scopes"].choices] == APIKey.Scope.values


def test_a_key_needs_a_scope_and_an_expiry_in_the_future(admin):
    past = timezone.now() - timedelta(days=1)
    answer = issue(
        admin,
        scopes=[],
        expires_at_0=past.strftime("%Y-%m-%d"),
        expires_at_1=past.strftime("%H:%M:%S"),
    )
    assert {"scopes", "expires_at"} <= set(answer.context["adminform"].form.errors)
    assert not APIKey.objects.exists()


def test_limits_are_set_with_a_new_key_and_changed_afterwards(admin):
    issue(admin, weight=2, images_per_day=100, retention_days=30)
    key = APIKey.objects.get()
    assert (key.weight, key.images_per_day, key.retention_days) == (2, 100, 30)

    answer = admin.post(
        url("apikey", "change", key.pk),
        {"weight": 3, "requests_per_minute": 60, "images_per_day": ""},
    )

    assert answer.status_code == 302
    key.refresh_from_db()
    assert (key.weight, key.requests_per_minute, key.images_per_day) == (3, 60, None)
    html = admin.get(url("apikey", "changelist")).content.decode()
    assert "weight 3, 60 requests per minute" in html


@pytest.mark.parametrize("weight", [0, 101, ""])
def test_a_weight_is_from_one_to_a_hundred(admin, weight):
    answer = issue(admin, weight=weight)
    assert "weight" in answer.context["adminform"].form.errors
    assert not APIKey.objects.exists()


def test_only_the_limits_of_a_key_can_be_edited(admin):
    key, _ = make_key(scopes=["jobs:read"])
    form = {"weight": 2, "name": "other", "scopes": ["jobs:write"], "expires_at_0": "2000-01-01"}
    admin.post(url("apikey", "change", key.pk), form | {"owner": make_user(username="admin").pk})
    key.refresh_from_db()
    assert (key.weight, key.name, key.scopes, key.owner.username, key.expires_at) == (
        2, "test", ["jobs:read"], "owner", None,
    )  # fmt: skip


def test_a_rotated_key_shows_the_new_one_once(admin):
    key, plain_old = make_key(weight=4)
    assert "Rotate" in admin.get(url("apikey", "change", key.pk)).content.decode()
    answer = run_action(admin, key, "rotate")
    key.refresh_from_db()
    new = key.replaced_by
    assert new.matches(answer.context["plain"]) and new.weight == 4
    assert key.matches(plain_old) and key.prefix in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert "Rotate does not fit the state of" in notices(run_action(admin, key, "rotate"))
    assert "Rotate" not in admin.get(url("apikey", "change", key.pk)).content.decode()


def test_the_page_of_a_key_shows_what_it_used(admin):
    key, _ = make_key(images_per_day=50)
    today = timezone.now().date()
    Usage.objects.create(api_key=key, day=today, images=42, device_seconds=1.25)
    Usage.objects.create(api_key=key, day=today - timedelta(days=3), images=17)
    Usage.objects.create(api_key=key, day=today - timedelta(days=30), images=9999)
    shown = admin.get(url("apikey", "change", key.pk)).context["usage"]
    assert [row.images for row in shown] == [42, 0, 0, 17, 0, 0, 0]
    assert shown[0].day == today


def test_the_usage_of_a_key_without_a_quota_is_read_from_its_jobs(admin):
    key, _ = make_key()
    other, _ = make_key()
    now = timezone.now()
    for one, days, n in ((key, 0, 3), (key, 0, 1), (key, 3, 2), (key, 8, 9), (other, 0, 9)):
        at = now - timedelta(days=days)
        make_job(api_key=one, n=n, status=Status.SUCCEEDED, device_seconds=0.5, created_at=at)

    shown = admin.get(url("apikey", "change", key.pk)).context["usage"]

    assert [row.images for row in shown] == [4, 0, 0, 2, 0, 0, 0]
    assert [row.device_seconds for row in shown[:4]] == [1.0, 0, 0, 0.5]


def test_a_key_is_revoked_and_cannot_be_deleted(admin):
    key, plain = make_key()
    assert key.matches(plain)
    run_action(admin, key, "revoke")
    key.refresh_from_db()
    assert not key.matches(plain) and key.revoked_at
    assert admin.post(url("apikey", "delete", key.pk), {"post": "yes"}).status_code == 403


def test_staff_create_and_see_only_their_own_keys():
    others, _ = make_key(owner=make_user(username="other"))
    editor = staff("add_apikey", "view_apikey", "change_apikey")
    answer = issue(editor, owner=others.owner_id)
    assert "owner" in answer.context["adminform"].form.errors
    issue(editor, owner=make_user(username="editor").pk)
    assert APIKey.objects.filter(owner__username="editor").count() == 1
    for name in ("revoke", "rotate"):
        assert editor.post(url("apikey", "do", others.pk, name)).status_code == 404
    editor.post(url("apikey", "change", others.pk), {"weight": 9})
    others.refresh_from_db()
    assert (others.revoked_at, others.replaced_by, others.weight) == (None, None, 1)


@pytest.mark.parametrize(
    ("permissions", "scopes"),
    [
        ([], {"jobs:write", "jobs:read", "variants:read"}),
        (["view_release"], {"jobs:write", "jobs:read", "variants:read"}),
        (["view_release", "view_run"], {"jobs:write", "jobs:read", "variants:read", "releases:read"}),
        (["add_run"], {"jobs:write", "jobs:read", "variants:read"}),
        (["add_run", "change_run"], {"jobs:write", "jobs:read", "variants:read", "releases:write"}),
    ],
)  # fmt: skip
def test_a_person_can_give_a_key_only_their_own_permissions(permissions, scopes):
    editor = staff("add_apikey", "view_apikey", *permissions)
    owner = make_user(username="editor").pk
    form = editor.get(url("apikey", "add")).context["adminform"].form
    assert {choice for choice, _ in form.fields["scopes"].choices} == scopes
    assert set(form.initial["scopes"]) <= scopes
    for refused in set(APIKey.Scope.values) - scopes:
        answer = issue(editor, owner=owner, scopes=["jobs:read", refused])
        assert "scopes" in answer.context["adminform"].form.errors
    assert not APIKey.objects.exists()
    issue(editor, owner=owner, scopes=sorted(scopes))
    assert set(APIKey.objects.get().scopes) == scopes


@pytest.mark.parametrize(
    "more", [{"weight": 2}, {"requests_per_minute": 0}, {"requests_per_minute": 61}, {"retention_days": 0},
             {"retention_days": 31}]
)  # fmt: skip
def test_only_staff_who_may_change_limits_of_persons_raise_a_keys_limits(settings, more):
    settings.REQUESTS_PER_MINUTE, settings.RETENTION_DAYS = 60, 30
    editor = staff("add_apikey", "view_apikey", "change_apikey")
    owner = make_user(username="editor").pk
    assert set(issue(editor, owner=owner, **more).context["adminform"].form.errors) == set(more)
    issue(editor, owner=owner, requests_per_minute=30, retention_days=7, images_per_day=5)
    key = APIKey.objects.get()
    editor.post(url("apikey", "change", key.pk), {"weight": 1, **more})
    key.refresh_from_db()
    assert (key.weight, key.requests_per_minute, key.retention_days) == (1, 30, 7)
    editor = staff("add_apikey", "view_apikey", "change_apikey", "change_ownerlimits")
    assert editor.post(url("apikey", "change", key.pk), {"weight": 1, **more}).status_code == 302


def test_limits_of_a_person_are_on_their_page_and_changes_are_recorded(admin):
    person = make_user(username="shop")
    page = reverse("admin:auth_user_change", args=[person.pk])
    form = {"username": "shop", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    limits = {"limits-TOTAL_FORMS": 1, "limits-INITIAL_FORMS": 0, "limits-0-owner": person.pk}
    answer = admin.post(page, form | limits | {"limits-0-images_per_day": 100})
    assert answer.status_code == 302, answer.context["errors"]
    assert OwnerLimits.objects.get(owner=person).images_per_day == 100
    entry = AuditEntry.objects.get(action="limits_edited")
    assert (entry.subject, entry.actor, entry.detail["images_per_day"]) == ("shop", "admin", 100)
    users = staff("view_user", "change_user")
    assert "images_per_day" not in users.get(page).content.decode()
    users.post(page, form | limits | {"limits-INITIAL_FORMS": 1, "limits-0-images_per_day": 999})
    assert OwnerLimits.objects.get(owner=person).images_per_day == 100


def test_staff_who_may_only_view_keys_cannot_change_them():
    reader = staff("view_apikey")
    own, _ = make_key(owner=make_user(username="editor"))
    assert "Rotate" not in reader.get(url("apikey", "change", own.pk)).content.decode()
    reader.post(url("apikey", "change", own.pk), {"weight": 9})
    assert reader.post(url("apikey", "do", own.pk, "rotate")).status_code == 403
    own.refresh_from_db()
    assert (own.weight, own.replaced_by) == (1, None)

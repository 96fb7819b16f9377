"""The prompt catalogue in the admin: serving releases and quality, tags, undo, the page of a variant, imports."""

import io
import re
from html import unescape

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from distillation import folders
from distillation.detectors import registry as detectors
from distillation.evaluation.seeds import seeds_of
from distillation.models import Run
from generation.models import AuditEntry, Image, Job, PromptVariant, Release
from tests.distillation.detector.folders import make_version
from tests.distillation.factories import make_run
from tests.factories import (
    cover,
    make_embedding,
    make_image,
    make_job,
    make_quality,
    make_release,
    make_user,
    make_variant,
    make_variant_image,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


@pytest.fixture
def student() -> Release:
    """A student of "good" and "weak", a teacher for "new"."""
    student = make_release(name="s")
    make_release(name="t", kind="teacher")
    for slug in ("good", "weak", "new"):
        make_embedding(variant=make_variant(slug=slug, text=f"a {slug} vase", tags=["vase"]))
    cover(student, {"good": "a good vase", "weak": "a weak vase"})
    make_quality(student, "a good vase", 4, judged=6, judged_right=5)
    make_quality(student, "a weak vase", 1)
    return student


def url(page: str, *args: object) -> str:
    return reverse(f"admin:generation_promptvariant_{page}", args=args)


def words(answer) -> str:
    plain = re.sub(r"<[^>]*>", " ", answer.content.decode())
    return " ".join(unescape(plain).split())


def listed(client: Client, **query: str) -> list[str]:
    answer = client.get(url("changelist"), query)
    return sorted(row.slug for row in answer.context["cl"].result_list)


def run_list_action(client: Client, name: str, *slugs: str, **form: str):
    ids = PromptVariant.objects.filter(slug__in=slugs).values_list("pk", flat=True)
    data = {"action": name, "_selected_action": list(ids)} | form
    return client.post(url("changelist"), data, follow=True)


# --- the list -------------------------------------------------------------------------------------
def test_the_list_shows_the_serving_release_the_reason_and_the_quality(admin, student):
    page_words = words(admin.get(url("changelist")))
    assert (
        "student It was made for this text. 90% right 9 of 10; 60% to 98% 1 flagged" in page_words
    )
    assert "student It was made for this text. 25% right 1 of 4; 5% to 70%" in page_words
    assert "teacher s was not made for this text. No run is scheduled. not judged yet" in page_words
    assert (
        "2 covered 1 not covered 0 failing 1 weak (fewer than 50% right) 1 hard (weak by every student) of 3 active"
        in page_words
    )


def test_the_list_is_filtered_by_standing(admin, student):
    assert listed(admin, standing="covered") == ["good", "weak"]
    assert listed(admin, standing="waiting") == ["new"]
    assert listed(admin, standing="weak") == listed(admin, standing="hard") == ["weak"]
    assert listed(admin, standing="failing") == []
    assert "not covered (1)" in words(admin.get(url("changelist")))


def test_the_picture_in_the_list_is_of_the_release_that_serves_now(admin, student):
    variant = PromptVariant.objects.get(slug="good")
    by_student = make_image(job=make_job(variant=variant, release=student, status="succeeded"))
    teacher = Release.objects.get(name="t")
    by_teacher = make_image(job=make_job(variant=variant, release=teacher, status="succeeded"))

    def shows(image: Image) -> bool:
        return str(image.pk) in admin.get(url("changelist")).content.decode()

    assert (shows(by_student), shows(by_teacher)) == (True, False)
    student.coverage.filter(slug="good").delete()
    assert (shows(by_student), shows(by_teacher)) == (False, True)


def test_without_a_jobs_picture_the_list_shows_the_image_for_everybody(admin, student):
    good, weak, new = (PromptVariant.objects.get(slug=slug) for slug in ("good", "weak", "new"))
    shared = [make_variant_image(variant=one, release=student) for one in (good, weak, new)]
    by_student = make_image(job=make_job(variant=good, release=student, status="succeeded"))
    addresses = [url("image", image.pk) for image in shared]

    page = admin.get(url("changelist")).content.decode()

    assert [address in page for address in addresses] == [False, True, False]
    assert str(by_student.pk) in page
    assert admin.get(addresses[1])["Content-Type"] == "image/webp"
    stranger = Client()
    stranger.force_login(make_user(username="stranger", is_staff=True))
    assert stranger.get(addresses[1]).status_code == 403


def test_a_waiting_variant_shows_its_run_or_the_time_of_the_next_one(admin, student):
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    every = IntervalSchedule.objects.create(every=1, period="days")
    PeriodicTask.objects.create(name="consider", task="distillation.consider", interval=every)
    assert re.search(
        r"The next run may begin \d{4}-\d\d-\d\d \d\d:\d\d UTC", words(admin.get(url("changelist")))
    )
    make_run(name="run-1", status=Run.Status.QUEUED)
    assert "In the run run-1 (queued, 0 %)." in words(admin.get(url("changelist")))


def test_more_variants_cost_no_more_queries(admin, student, django_assert_max_num_queries):
    def queries() -> int:
        with django_assert_max_num_queries(25) as found:
            assert admin.get(url("changelist")).status_code == 200
        return len(found)

    queries()
    few = queries()
    for number in range(20):
        variant = make_variant(slug=f"v{number}", tags=[f"tag-{number}"])
        embedding = make_embedding(variant=variant)
        make_image(job=make_job(embedding=embedding, release=student, status="succeeded"))
        make_quality(student, variant.normalized_text, 2)
    assert queries() == few


def test_a_tag_in_the_list_links_to_its_variants(admin, student):
    tag = "salt & pepper 50%+#1"
    make_variant(slug="spicy", tags=[tag])
    page = admin.get(url("changelist")).content.decode()
    links = [unescape(link) for link in re.findall(r'href="([^"]*[?]tag=[^"]*)"', page)]
    found = [[row.slug for row in admin.get(link).context["cl"].result_list] for link in links]
    assert ["spicy"] in found and len(found) == 4


# --- tags and undo --------------------------------------------------------------------------------
def test_tags_of_all_variants_of_a_long_list_are_added(admin):
    PromptVariant.objects.bulk_create(
        PromptVariant(slug=f"v{number}", text=f"v {number}", normalized_text=f"v {number}")
        for number in range(1001)
    )
    make_variant(slug="other", text="another text")
    form = {"select_across": "1", "action": "put_tags"}
    first = PromptVariant.objects.get(slug="v0")
    page = admin.post(f"{url('changelist')}?q=v", form | {"_selected_action": first.pk})
    fields = re.findall(
        r'<input type="hidden" name="([^"]+)" value="([^"]+)"', unescape(page.content.decode())
    )
    sent = {name: [] for name, _ in fields}
    for name, value in fields:
        sent[name].append(value)

    done = admin.post(
        f"{url('changelist')}?q=v", sent | {"add": "glass", "remove": ""}, follow=True
    )

    assert "The tags of 1001 prompt variants changed." in words(done)
    assert PromptVariant.objects.filter(tags=["glass"]).count() == 1001


def test_tags_of_many_variants_are_added_and_removed(admin, student):
    page = run_list_action(admin, "put_tags", "good", "new")
    assert "Tags of 2 prompt variants" in words(page) and not AuditEntry.objects.exists()
    refused = run_list_action(admin, "put_tags", "good", put="1", add="", remove="")
    assert refused.status_code == 200 and not AuditEntry.objects.exists()

    done = run_list_action(
        admin, "put_tags", "good", "new", put="1", add="glass, red", remove="vase"
    )

    assert "The tags of 2 prompt variants changed." in words(done)
    assert dict(PromptVariant.objects.values_list("slug", "tags")) == {
        "good": ["glass", "red"],
        "new": ["glass", "red"],
        "weak": ["vase"],
    }


def test_a_new_tag_that_resembles_a_known_one_is_reported(admin, student):
    done = run_list_action(admin, "put_tags", "good", put="1", add="vsae", remove="")
    assert "The tag “vsae” is new. Did you mean “vase”?" in words(done)


def test_the_field_of_tags_suggests_those_of_the_catalogue(admin, student):
    html = unescape(admin.get(url("add")).content.decode())
    assert 'data-tags="["vase"]"' in html and "generation/tags.js" in html


def test_archiving_is_undone_from_the_message(admin, student):
    done = run_list_action(admin, "archive", "good", "weak")
    assert "2 prompt variants are now archived." in words(done)
    (undo,) = re.findall(r'action="([^"]*/undo/\d+/)"', done.content.decode())
    assert listed(admin, status__exact="archived") == ["good", "weak"]

    assert admin.get(undo).status_code == 405
    assert "Undone for 2 prompt variants." in words(admin.post(undo, follow=True))
    assert listed(admin, status__exact="active") == ["good", "new", "weak"]


def test_undo_needs_the_permission_to_change(admin, student):
    run_list_action(admin, "archive", "good")
    viewer = Client()
    user = make_user(username="viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_promptvariant"))
    viewer.force_login(user)
    entry = AuditEntry.objects.get()
    assert viewer.post(url("undo", entry.pk)).status_code == 403
    assert PromptVariant.objects.get(slug="good").status == "archived"


def put_into_run(client: Client, *slugs: str, tag: str):
    return run_list_action(client, "put_into_run", *slugs, put="1", tag=tag)


def test_a_run_for_chosen_variants_is_restricted_by_a_tag_that_they_get(admin, student):
    make_variant(slug="idea", status="draft")
    asked = run_list_action(admin, "put_into_run", "idea", "new")
    assert "A run for 2 prompt variants" in words(asked) and "becomes a specialist" in words(asked)
    assert asked.context["form"]["tag"].value().startswith("run-")
    assert PromptVariant.objects.get(slug="idea").status == "draft"

    answer = put_into_run(admin, "idea", "new", tag="mine")
    assert answer.redirect_chain[-1][0] == reverse("admin:distillation_run_add") + "?part=mine"
    said = "1 prompt variant became active. The run is for those with the tag mine."
    assert said in words(answer)
    assert answer.context["adminform"].form["part"].value() == "mine"
    found = PromptVariant.objects.filter(tags__contains=["mine"], status="active")
    assert sorted(found.values_list("slug", flat=True)) == ["idea", "new"]
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {
        "variants_changed",
        "variants_tagged",
    }


def test_without_a_tag_the_run_is_for_all_active_variants(admin, student):
    answer = put_into_run(admin, "new", tag=" ")
    assert answer.redirect_chain[-1][0] == reverse("admin:distillation_run_add")
    assert "The run is for all active prompt variants." in words(answer)
    assert PromptVariant.objects.get(slug="new").tags == ["vase"]


def test_a_tag_that_does_not_name_the_chosen_variants_alone_is_refused(admin, student, tmp_path):
    detectors.activate(detectors.register(make_version(tmp_path / "made", name="mine")))
    for tag, why in (
        ("vase", "belongs to 1 prompt variant more"),
        ("red", "The detector checks the tag “red” in images"),
        ("not-red", "The detector checks the tag “not-red” in images"),
        ("a,b", "is not allowed"),
        ("not-mine", "contradict each other"),
    ):
        PromptVariant.objects.filter(slug="weak").update(tags=["mine"], status="draft")
        assert why in words(put_into_run(admin, "new", "weak", tag=tag)), tag
        assert PromptVariant.objects.get(slug="weak").status == "draft"


def test_putting_variants_into_a_run_needs_the_permission_to_start_one(student):
    user = make_user(username="editor", is_staff=True)
    codenames = ["view_promptvariant", "change_promptvariant"]
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    put_into_run(client, "new", tag="mine")
    assert PromptVariant.objects.get(slug="new").tags == ["vase"]


# --- the page -------------------------------------------------------------------------------------
def picture(variant: PromptVariant, release: Release, seed: int, **fields) -> Image:
    job = make_job(variant=variant, release=release, status="succeeded", seed=seed)
    image = make_image(job=job)
    Image.objects.filter(pk=image.pk).update(**fields)
    return image


def test_the_page_shows_the_same_seeds_by_each_release_with_faults_and_counts(admin, student):
    variant, teacher = PromptVariant.objects.get(slug="good"), Release.objects.get(name="t")
    both = [picture(variant, release, 7) for release in (student, teacher)]
    picture(variant, student, 8, is_accepted=False, failing=["glass", "vase"])
    old = make_release(name="older", status="retired", covered_variants=["good"])
    picture(variant, old, 7)

    answer = admin.get(url("change", variant.pk))

    details = answer.context["details"]
    assert [column["name"] for column in details["columns"]] == ["t", "s", "older"]
    (first, cells), (second, others) = details["seeds"]
    assert (first, second) == (7, 8) and all(cells)
    assert [cell and cell["failing"] for cell in others] == [None, "glass, vase", None]
    page_words = words(answer)
    assert "s Active yes 4 of 4 5 of 6" in page_words.replace("active", "Active")
    assert "glass (1), vase (1)" in page_words and "t Active every text – –" in page_words.replace(
        "active", "Active"
    )
    assert all(str(image.pk) in answer.content.decode() for image in both)


def test_the_page_shows_pictures_of_evaluations_of_candidates_too(admin, student):
    variant = PromptVariant.objects.get(slug="good")
    embedding = make_embedding(variant=variant)
    for seed in (7, 8):
        picture(variant, student, seed)
    candidate = make_release(name="made", status="candidate", covered_variants=["good"])
    (shared,) = seeds_of(["good"], each=2)
    for name in ("s", "t", "made"):
        folder = folders.root() / "pictures" / f"{name}-{16 * '0'}"
        folder.mkdir(parents=True)
        for seed in shared:
            (folder / f"{embedding.sha256[:24]}-{seed}.png").write_bytes(b"PNG")

    answer = admin.get(url("change", variant.pk))

    details = answer.context["details"]
    assert [column["name"] for column in details["columns"]] == ["t", "s", "made"]
    filled = {seed: [cell is not None for cell in cells] for seed, cells in details["seeds"]}
    assert filled == dict.fromkeys(shared, [True] * 3) | {
        key: [False, True, False] for key in (7, 8)
    }
    args = [candidate.pk, embedding.sha256[:24], shared[0]]
    link = reverse("admin:generation_release_compared", args=args)
    assert f'src="{link}"' in answer.content.decode() and admin.get(link).content == b"PNG"


def test_a_comparison_includes_the_candidates_that_wait(admin, student):
    variant = PromptVariant.objects.get(slug="good")
    for name, slug in (("made", "good"), ("other", "weak")):
        candidate = make_release(name=name, status="candidate", covered_variants=[slug])
        make_run(name=name, status="succeeded", outcome="candidate", release=candidate,
                 finished_at=timezone.now())  # fmt: skip
    admin.post(url("do", variant.pk, "compare"), follow=True)
    assert sorted(Job.objects.values_list("release__name", flat=True)) == ["made", "s", "t"]


def test_a_comparison_submits_the_same_seeds_to_student_and_teacher(admin, student):
    variant = PromptVariant.objects.get(slug="good")
    admin.post(url("do", variant.pk, "compare"), follow=True)
    submitted = Job.objects.values_list("release__name", "seed", "n")
    assert sorted(submitted) == [("s", 1, 4), ("t", 1, 4)]


def test_users_who_may_not_view_jobs_see_no_picture(admin, student):
    variant = PromptVariant.objects.get(slug="good")
    image = picture(variant, student, 7)
    user = make_user(username="viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_promptvariant"))
    viewer = Client()
    viewer.force_login(user)
    answer = viewer.get(url("change", variant.pk))
    assert answer.status_code == 200 and "90% right" in words(answer)
    assert str(image.pk) not in answer.content.decode()


# --- imports --------------------------------------------------------------------------------------
def upload(client: Client, content: bytes):
    file = io.BytesIO(content)
    file.name = "catalogue.csv"
    return client.post(url("import"), {"import_file": file, "format": "0", "resource": "0"})


def test_a_file_of_a_european_spreadsheet_is_imported_and_its_changes_are_listed(admin):
    make_variant(slug="other")
    answer = upload(admin, "text;tags\r\na café vase;red|glass\r\n".encode("cp1252"))
    assert "a café vase" in words(answer)
    done = admin.post(url("process_import"), answer.context["confirm_form"].initial, follow=True)
    assert "Imported: 1 new, 0 changed, 0 unchanged. Show them" in words(done)
    assert "Distil now" not in words(done)
    (change,) = re.findall(r"\?change=(\d+)", done.content.decode())
    assert listed(admin, change=change) == ["a-cafe-vase"]
    assert listed(admin, change="987654") == []


def test_after_an_import_a_run_can_be_started(admin):
    make_release(name="teacher-1", kind="teacher")
    make_release(name="student-1", parent="teacher-1", covered_variants=["other", "a-red-vase"])
    make_variant(slug="other")
    for text, is_offered in (("a red vase", False), ("a blue vase", True)):
        answer = upload(admin, f"text\r\n{text}\r\n".encode())
        initial = answer.context["confirm_form"].initial
        done = admin.post(url("process_import"), initial, follow=True)
        link = reverse("admin:distillation_run_add")
        assert (
            f'href="{link}" class="underline">Distil now</a>' in done.content.decode()
        ) == is_offered


def test_a_template_can_be_downloaded(admin):
    assert url("template") in admin.get(url("import")).content.decode()
    answer = admin.get(url("template"))
    assert answer["Content-Disposition"] == 'attachment; filename="catalogue.csv"'
    assert answer.content.decode("utf-8-sig").startswith("slug,text,tags,status,notes")


def test_a_prompt_that_a_specialist_makes_well_is_neither_weak_nor_hard(admin, student):
    vases = make_release(name="vases", status="specialist", covered_variants=["weak"])
    make_quality(vases, "a weak vase", 4)
    assert listed(admin, standing="weak") == listed(admin, standing="hard") == []
    assert "It is the specialist that makes this text best." in words(admin.get(url("changelist")))
    page = words(admin.get(reverse("admin:generation_release_change", args=[vases.pk])))
    assert "1 prompt variant; it makes 1 of the catalogue now" in page
    Release.objects.filter(pk=vases.pk).update(status="retired")
    assert listed(admin, standing="hard") == ["weak"]


def test_deletions_of_variants_are_in_the_audit_log(admin):
    one, two = make_variant(slug="one", text="one vase"), make_variant(slug="two", text="two vases")
    admin.post(url("delete", one.pk), {"post": "yes"})
    run_list_action(admin, "delete_selected", "two", post="yes")
    assert not PromptVariant.objects.filter(pk__in=[one.pk, two.pk]).exists()
    entries = AuditEntry.objects.filter(action="variant_deleted").order_by("pk")
    found = [(entry.actor, entry.subject, entry.detail) for entry in entries]
    assert found == [
        ("admin", "one", {"text": "one vase"}),
        ("admin", "two", {"text": "two vases"}),
    ]


def test_a_page_opened_before_another_change_cannot_undo_it(admin):
    variant = make_variant(slug="red-vase", text="a red vase", tags=["vase"])
    page = admin.get(url("change", variant.pk))
    assert 'name="seen"' in page.content.decode()
    form = page.context["adminform"].form
    given = {name: form[name].value() or "" for name in form.fields} | {"notes": "mine"}
    del given["new_revision"]
    PromptVariant.objects.filter(pk=variant.pk).update(status="archived", updated_at=timezone.now())
    answer = admin.post(url("change", variant.pk), given)
    assert "“red-vase” was changed after this page was opened. Reload the page" in words(answer)
    variant.refresh_from_db()
    assert (variant.status, variant.notes) == ("archived", "")
    given |= {"seen": variant.updated_at.isoformat(), "status": "archived"}
    assert admin.post(url("change", variant.pk), given).status_code == 302
    variant.refresh_from_db()
    assert (variant.status, variant.notes) == ("archived", "mine")

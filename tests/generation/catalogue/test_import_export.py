"""Import and export of the catalogue as CSV and JSON: accepted and refused files; a refused one changes nothing."""

import csv
import json
from pathlib import Path

import pytest
from django.db import connection

from generation.catalogue import editing, import_export
from generation.catalogue import variants as catalogue
from generation.errors import InvalidRequest
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import AuditEntry, Job, PromptVariant
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)
from tests.threads import in_threads

pytestmark = pytest.mark.django_db


def write(tmp_path: Path, content: str, name: str = "catalogue.csv") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def texts() -> dict[str, str]:
    return dict(PromptVariant.objects.values_list("slug", "text"))


def test_new_variants_are_made_with_slugs_tags_and_status(tmp_path):
    file = write(
        tmp_path,
        'slug,text,tags,status,notes\nvase,A  red vase,"glass, still life",,\n,a blue jug,clay|blue,draft,old\n',
    )
    report = import_export.import_file(file)

    assert (report.new, report.updated, report.unchanged, report.errors) == (2, 0, 0, [])
    vase, jug = PromptVariant.objects.get(slug="vase"), PromptVariant.objects.get(slug="a-blue-jug")
    assert (vase.text, vase.normalized_text, vase.status) == ("A red vase", "a red vase", "active")
    assert vase.tags == ["glass", "still life"]
    assert (jug.tags, jug.status, jug.notes, jug.revision) == (["clay", "blue"], "draft", "old", 1)


def test_importing_the_same_file_twice_changes_nothing(tmp_path):
    file = write(tmp_path, "text,tags\na red vase,glass\na blue jug,\n")
    import_export.import_file(file)
    before = list(PromptVariant.objects.values())
    report = import_export.import_file(file)
    assert (report.new, report.updated, report.unchanged) == (0, 0, 2)
    assert list(PromptVariant.objects.values()) == before


def test_a_changed_text_is_a_new_revision(tmp_path):
    make_variant(slug="vase", text="a red vase", tags=["glass"])
    report = import_export.import_file(write(tmp_path, "slug,text\nvase,a blue vase\n"))
    assert report.updated == 1
    vase = PromptVariant.objects.get()
    assert (vase.text, vase.normalized_text, vase.revision) == ("a blue vase", "a blue vase", 2)
    assert vase.tags == ["glass"]  # the file has no column of tags


def test_every_wrong_row_is_named_and_nothing_is_written(tmp_path):
    make_variant(slug="jug", text="a blue jug")
    rows = [
        "good,a red vase,,",
        f"long,{'word ' * 13},,",
        "copy,A RED  vase,,",
        "other,A blue JUG,,",
        "Bad Slug,a pink cup,,",
        "state,a green cup,,nonsense",
        "good,a grey cup,,",
        f"tagged,a white cup,{'x' * 61},",
        f"noted,a black cup,,,{'x' * 5001}",
    ]
    file = write(
        tmp_path, "slug,text,tags,status,notes\n" + ",\n".join(rows[:-1]) + f",\n{rows[-1]}\n"
    )

    report = import_export.import_file(file)

    complaints = {error.row: error.message for error in report.errors}
    assert sorted(complaints) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "13 words" in complaints[2]
    assert "“good”" in complaints[3]
    assert "“jug”" in complaints[4]
    assert "valid" in complaints[5]
    assert "draft, active, archived" in complaints[6]
    assert "“good” is already in row 1" in complaints[7]
    assert "tag" in complaints[8]
    assert "5001 characters; at most 5000" in complaints[9]
    assert texts() == {"jug": "a blue jug"}


def test_all_errors_of_a_row_are_reported(tmp_path):
    file = write(tmp_path, f"slug,text,status,notes\nvase,{'word ' * 13},nonsense,{'x' * 5001}\n")

    report = import_export.import_file(file)

    found = {error.field: error.message for error in report.errors if error.row == 1}
    assert sorted(found) == ["notes", "status", "text"]
    assert "13 words" in found["text"] and "draft, active" in found["status"]
    assert "5001 characters" in found["notes"]


def test_a_dry_run_reports_and_writes_nothing(tmp_path):
    report = import_export.import_file(write(tmp_path, "text\na red vase\n"), dry_run=True)
    assert (report.new, report.errors) == (1, [])
    assert texts() == {}


def test_the_text_of_images_changes_only_when_new_revisions_are_requested(tmp_path):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_image(job=make_job(embedding=embedding, status=Job.Status.SUCCEEDED))
    file = write(tmp_path, "slug,text\nvase,a blue vase\n")

    refused = import_export.import_file(file)
    assert "new revision" in refused.errors[0].message
    assert texts() == {"vase": "a red vase"}

    assert import_export.import_file(file, new_revisions=True).updated == 1
    assert PromptVariant.objects.get().revision == 2


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("c.csv", "slug,text,colour\nvase,a red vase,red\n", "Unknown columns: colour"),
        ("c.csv", "slug,tags\nvase,red\n", "column text is missing"),
        ("c.csv", "text,text\na,b\n", "more than once"),
        ("c.csv", "slug,text\nvase,a red vase,more\n", "more cells"),
        ("c.json", "{", "Expecting"),
        ("c.json", '{"text": "a red vase"}', "list of objects"),
        ("c.json", '[{"text": "a red vase", "colour": 1}]', "Unknown columns: colour"),
        ("c.json", '[{"text": "a red vase", "notes": {"a": 1}}]', "Row 1 has {'a': 1}"),
        ("c.json", '[{"text": ["a red vase"]}]', r"Row 1 has \['a red vase'\]"),
        ("c.json", '[{"text": "a red vase", "tags": ["\\ud800"]}]', "Row 1 has a NUL"),
        ("c.json", '[{"text": "a red vase"}, {"text": "\\ud800"}]', "Row 2 has a NUL"),
        ("c.json", '[{"text": "a red vase", "\\ud800": ""}]', "head has a NUL"),
        ("c.csv", "text,notes\na red vase,\0\n", "Row 1 has a NUL"),
        ("c.xml", "", r"ends in \.csv or \.json"),
    ],
)
def test_a_file_that_is_not_a_catalogue_is_refused_as_a_whole(tmp_path, name, content, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        import_export.import_file(write(tmp_path, content, name))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(InvalidRequest, match="No such file"):
        import_export.import_file(tmp_path / "none.csv")


def test_objects_of_a_json_file_may_have_their_keys_in_any_order_and_leave_some_out(tmp_path):
    make_variant(slug="vase", text="a red vase", tags=["old"], notes="kept")
    content = [
        {"text": "a red vase", "slug": "vase", "tags": ["new", "glass"]},
        {"slug": "jug", "notes": "n", "text": "a blue jug"},
    ]
    report = import_export.import_file(write(tmp_path, json.dumps(content), "c.json"))
    assert (report.new, report.updated, report.errors) == (1, 1, [])
    vase, jug = PromptVariant.objects.get(slug="vase"), PromptVariant.objects.get(slug="jug")
    assert (vase.tags, vase.notes) == (["new", "glass"], "kept")
    assert (jug.text, jug.notes, jug.tags) == ("a blue jug", "n", [])


@pytest.mark.parametrize("name", ["out.csv", "out.json"])
def test_an_export_is_imported_unchanged(tmp_path, name):
    make_variant(
        slug="vase", text="a red, “glass” vase", tags=["glass", "still life"], notes="a\nb"
    )
    make_variant(slug="jug", text="a blue jug", status="draft")
    path = tmp_path / name
    assert import_export.export_file(path) == 2
    before = list(PromptVariant.objects.values("slug", "text", "tags", "status", "notes"))

    assert import_export.import_file(path).unchanged == 2
    PromptVariant.objects.all().delete()
    assert import_export.import_file(path).new == 2
    assert list(PromptVariant.objects.values("slug", "text", "tags", "status", "notes")) == before


def test_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufefftext\r\na red vase\r\n".encode())
    assert import_export.import_file(path).new == 1


def test_thousands_of_rows_take_few_queries(tmp_path, django_assert_max_num_queries):
    file = write(tmp_path, "text\n" + "".join(f"vase number {n}\n" for n in range(3000)))
    seen: list[int] = []
    with django_assert_max_num_queries(30):
        report = import_export.import_file(file, on_progress=seen.append)
    assert (report.new, sum(seen)) == (3000, 3000)
    assert catalogue.find(text="vase NUMBER 2999").revision == 1


@pytest.mark.django_db(transaction=True)
def test_an_import_requests_encoding_once_and_a_dry_run_does_not(tmp_path, redis_server):
    file = write(tmp_path, "text\na red vase\na blue jug\n")
    import_export.import_file(file, dry_run=True)
    assert redis_server.llen("encode") == 0
    import_export.import_file(file)
    assert redis_server.llen("encode") == 1


@pytest.mark.parametrize(
    "notes", ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "''", "it's"]
)
def test_no_cell_of_an_export_is_a_formula_and_the_import_restores_it(tmp_path, notes: str):
    make_variant(slug="vase", text="a red vase", notes=notes, tags=["=1+1"])
    path = tmp_path / "catalogue.csv"
    import_export.export_file(path)

    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in cells)
    assert import_export.import_file(path).unchanged == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_files_of_spreadsheets_are_read_in_any_encoding_and_with_any_separator(
    tmp_path, encoding: str, mark: str
):
    lines = [["text", "tags", "notes"], ["a café vase", "glass|red", "für, Ä; 5 €"]]
    text = "\r\n".join(mark.join(f'"{cell}"' for cell in line) for line in lines) + "\r\n"
    (tmp_path / "c.csv").write_bytes(text.encode(encoding))

    assert import_export.import_file(tmp_path / "c.csv").errors == []

    variant = PromptVariant.objects.get()
    assert (variant.text, variant.tags, variant.notes) == (
        "a café vase",
        ["glass", "red"],
        "für, Ä; 5 €",
    )


@pytest.mark.django_db(transaction=True)
def test_jobs_are_accepted_while_a_file_is_imported(tmp_path, redis_server):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_release(encoder_fingerprint=embedding.encoder_fingerprint)
    owner, accepted = make_user(), []

    def submit() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")
        accepted.append(submission.submit(owner, JobRequest(variant="vase")))

    def on_progress(_: int) -> None:
        in_threads(submit, count=1)

    file = write(tmp_path, "slug,text,notes\nvase,a red vase,new\nbowl,a blue bowl,\n")
    assert import_export.import_file(file, on_progress=on_progress).errors == []

    assert len(accepted) == 2


@pytest.mark.django_db(transaction=True)
def test_variants_that_another_process_adds_during_an_import_are_no_error(tmp_path, redis_server):
    added: list[PromptVariant] = []

    def add() -> None:
        added.append(catalogue.save(PromptVariant(text="a red vase")))

    def on_progress(_: int) -> None:
        if not added:
            in_threads(add, count=1)

    file = write(tmp_path, "text,tags\na red vase,red\na blue bowl,\n")
    report = import_export.import_file(file, on_progress=on_progress)

    assert (report.new, report.updated, report.errors) == (1, 1, [])
    assert PromptVariant.objects.get(slug="a-red-vase").tags == ["red"]


def test_the_template_is_a_file_that_can_be_imported(tmp_path):
    file = write(tmp_path, import_export.template())
    assert import_export.import_file(file).errors == []
    assert PromptVariant.objects.get().tags == ["vase", "red", "glass"]


def test_an_import_is_in_the_audit_log_with_its_changes_and_a_dry_run_is_not(tmp_path):
    make_variant(slug="same", text="a mug")
    file = write(tmp_path, "text\na mug\na red vase\na jug\n")
    import_export.import_file(file, dry_run=True)
    assert not AuditEntry.objects.exists()

    import_export.import_file(file)

    entry = AuditEntry.objects.get(action="catalogue_imported")
    assert (entry.subject, entry.detail["new"]) == ("2 prompt variants", 2)
    brought = PromptVariant.objects.filter(editing.touched(entry))
    assert sorted(brought.values_list("slug", flat=True)) == ["a-jug", "a-red-vase"]

"""`manage.py catalogue`: output and errors. test_import_export has the rules."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from generation.catalogue import variants as catalogue
from generation.models import PromptVariant
from generation.releases import lifecycle as releases
from tests.factories import make_embedding, make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.csv"
    path.write_text("slug,text\nvase,a red vase\njug,a blue jug\n")
    return path


def test_an_import_shows_a_progress_bar_and_its_result(file, capsys):
    call_command("catalogue", "import", str(file))
    printed = capsys.readouterr()
    assert "2 new, 0 updated, 0 unchanged" in printed.out
    assert "2/2" in printed.err
    assert PromptVariant.objects.count() == 2


def test_a_dry_run_reports_the_planned_changes(file, capsys):
    call_command("catalogue", "import", str(file), "--dry-run")
    assert "Dry run: 2 new" in capsys.readouterr().out
    assert not PromptVariant.objects.exists()


def test_a_wrong_row_fails_the_command_with_its_number(file, capsys):
    file.write_text(f"slug,text\nvase,a red vase\nlong,{'word ' * 13}\n")
    with pytest.raises(CommandError, match="Nothing was imported: 1 error"):
        call_command("catalogue", "import", str(file))
    assert "row 2: The text has 13 words" in capsys.readouterr().err
    assert not PromptVariant.objects.exists()


def test_a_file_that_cannot_be_read_fails_with_the_reason(tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        call_command("catalogue", "import", str(tmp_path / "none.csv"))


def test_an_export_can_be_imported(tmp_path, capsys):
    make_variant(slug="vase", text="a red vase")
    call_command("catalogue", "export", str(tmp_path / "out.json"))
    assert "1 prompt variant written" in capsys.readouterr().out
    call_command("catalogue", "import", str(tmp_path / "out.json"))
    assert "1 unchanged" in capsys.readouterr().out


def test_encode_can_be_left_to_the_worker(redis_server, capsys):
    call_command("catalogue", "encode", "--publish")
    assert redis_server.llen("encode") == 1
    assert "worker was notified" in capsys.readouterr().out


def test_again_marks_failed_embeddings(redis_server, capsys):
    make_release(has_encoder=True)
    row = make_embedding(error="It has 99 tokens.")
    call_command("catalogue", "encode", "--again", "--publish")
    row.refresh_from_db()
    assert row.error == catalogue.ENCODE_AGAIN
    assert "1 embedding will" in capsys.readouterr().out


def test_status_counts_the_states(capsys):
    make_release(has_encoder=True)
    make_embedding(variant=make_variant(slug="vase"))
    make_variant(slug="jug")
    call_command("catalogue", "status")
    printed = capsys.readouterr().out
    assert "encoded: 1" in printed and "pending: 1" in printed and "1 missing" in printed


def test_cluster_shows_the_parts_and_tags_the_variants_unless_it_is_a_dry_run(tmp_path, capsys):
    from tests import tiny

    tiny.make_tiny_release(tmp_path / "tiny")
    release = releases.activate(releases.register(tmp_path / "tiny"))
    assert release.has_encoder
    for thing in ("vase", "bowl", "cup", "cube"):
        make_variant(text=f"a red {thing}", tags=[thing])
    call_command("catalogue", "encode")
    capsys.readouterr()

    call_command("catalogue", "cluster", "--parts", "2", "--dry-run")
    shown = capsys.readouterr().out
    assert "part-1: " in shown and "In the middle: a red " in shown and "Dry run" in shown
    assert not PromptVariant.objects.filter(tags__overlap=["part-1", "part-2"]).exists()
    call_command("catalogue", "cluster", "--parts", "2")
    assert "4 prompt variants changed." in capsys.readouterr().out
    assert PromptVariant.objects.filter(tags__overlap=["part-1", "part-2"]).count() == 4
    with pytest.raises(CommandError, match="from 2 to 4"):
        call_command("catalogue", "cluster", "--parts", "9")

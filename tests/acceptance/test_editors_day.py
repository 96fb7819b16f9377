"""An editor's day in a browser: 20 new prompts are imported, covered by a rehearsal's student, reviewed and served."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.acceptance import browser as browsers
from tests.acceptance.browser import SECONDS, Visitor
from tests.acceptance.stack import ROOT, Stack, wait_for
from tests.distillation.pictures import png

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.skipif(browsers.installed() is None, reason="no Chromium is installed"),
]

KEPT = 4  # active variants of the starter; with the new ones as many as a rehearsal accepts
NEW = 20
PASSWORD = "an editor's password"
CATALOGUE = "/admin/generation/promptvariant/"
RUN_SECONDS = 3600.0  # many times what a rehearsal takes


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with the starter, a small catalogue, an editor, and a schedule that starts no run."""
    home = tmp_path_factory.mktemp("shop")
    env = {"REDISTIL_SETTLED_SECONDS": "86400", "SWEEP_SECONDS": "1", "TORCH_THREADS": "1"}
    with Stack(home / "home", workers=1, env=env) as stack:
        stack.query(
            "UPDATE generation_promptvariant SET status = 'archived' WHERE slug NOT IN"
            " (SELECT slug FROM generation_promptvariant ORDER BY md5(slug) LIMIT %s)",
            KEPT,
        )
        stack.manage(
            "shell",
            "-c",
            "from django.contrib.auth.models import Group, User\n"
            f"editor = User.objects.create_user('editor', password={PASSWORD!r}, is_staff=True)\n"
            "editor.groups.add(Group.objects.get(name='Editor'))",
        )
        yield stack
        assert stack.stop() == 0


@pytest.fixture
def editor(shop: Stack) -> Iterator[Visitor]:
    with browsers.chromium() as browser:
        visitor = Visitor(browser, shop.run["base_url"])
        yield visitor
        assert visitor.foreign_requests() == []
        assert visitor.errors == []
        visitor.close()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A CSV file of new combinations of the starter's words: its objects on another ground."""
    with (ROOT / "generation/starter/catalogue.csv").open() as file:
        known = list(csv.DictReader(file))
    texts = {row["text"] for row in known}
    moved = {
        row["text"].replace("a wooden table", "a marble slab"): row["tags"].replace("table", "slab")
        for row in known
        if row["text"].endswith(" on a wooden table")
    }
    new = [(text, tags.replace(",", "|")) for text, tags in moved.items() if text not in texts]
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "tags"), *new[:NEW]])
    return path


def test_twenty_new_prompts_are_covered_reviewed_and_served(
    shop: Stack, editor: Visitor, prompts: Path
):
    page = editor.page

    # The editor logs in and imports the file.
    page.goto("/admin/login/?next=" + CATALOGUE)
    page.fill("[name=username]", "editor")
    page.fill("[name=password]", PASSWORD)
    page.press("[name=password]", "Enter")
    page.get_by_role("link", name="Import").click()
    page.set_input_files("[type=file]", prompts)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(f"Of {NEW} rows: {NEW} new").wait_for()
    page.get_by_role("button", name="Confirm import").click()
    page.get_by_text(f"Imported: {NEW} new").wait_for()
    page.get_by_role("link", name="Show them").click()
    page.wait_for_url("**change=*")
    imported_url = page.url

    # All are in the catalogue, and no student covers them.
    def legend() -> str:
        page.goto(imported_url)
        return " ".join(page.locator(".rt-legend").inner_text().split())

    def served() -> list[str]:
        cells = page.locator("#result_list .field-served .rt-reason")
        return [text.split()[0].lower() for text in cells.all_inner_texts()]

    wait_for(lambda: f"{NEW} not covered" in legend(), "the new prompts are encoded")
    assert served() == ["teacher"] * NEW

    # Real pictures are added as a source and reviewed with the keyboard.
    folder = Path(shop.run["data_dir"]) / "sources" / "shop"
    folder.mkdir(parents=True)
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(seed, width=160, height=160))
    page.goto("/admin/distillation/imagesource/add/")
    page.get_by_label("Name").fill("shop")
    page.get_by_label("URL").fill(str(folder))
    page.get_by_role("button", name="Save", exact=True).click()
    count = "SELECT count(*) AS n FROM distillation_example WHERE refusal = ''"
    wait_for(lambda: shop.query(count)[0]["n"] == 3, "the pictures are examples")
    page.goto("/admin/distillation/example/")
    page.get_by_role("link", name="Review one by one").click()
    page.get_by_text("3 left of this set").wait_for()
    for key, left in (("r", 2), ("u", 3), ("a", 2), ("r", 1)):
        page.wait_for_load_state()  # the script that handles the keys has run
        page.keyboard.press(key)
        page.get_by_text(f"{left} left of this set").wait_for()
    decided = shop.query("SELECT override FROM distillation_example ORDER BY override")
    assert [row["override"] for row in decided] == ["", "accepted", "rejected"]

    # A run is planned and started in the form.
    page.goto("/admin/distillation/run/add/")
    page.get_by_role("radio", name=re.compile("^rehearsal")).check()
    page.get_by_label("Policy").select_option("manual")
    page.get_by_role("button", name="Show the plan").click()
    plan = page.get_by_role("status").filter(has_text="Nothing was started")
    expect(plan).to_contain_text(f"for {KEPT + NEW} prompt variants, {NEW} of them new or changed")
    expect(page.get_by_role("radio", name=re.compile("^rehearsal"))).to_be_checked()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("was added successfully").wait_for()

    # Its page updates itself until the gate has decided.
    page.goto("/admin/distillation/run/")
    page.locator("#result_list tbody th a").first.click()
    page.get_by_role("progressbar", name="Progress of the run").wait_for()
    decision = page.get_by_role("heading", name="This release waits for your decision")
    decision.wait_for(timeout=RUN_SECONDS * 1000)
    expect(page.get_by_role("list", name="Stages").get_by_role("listitem")).not_to_have_count(0)
    name = page.locator("#run-live strong").first.inner_text()

    # The editor looks at the sheet and at all new prompts beside the teacher, then decides and gives a reason.
    assert all(width > 128 for width in editor.loaded("img.rt-sheet[src]"))
    decided_at = page.url
    page.get_by_role("link", name=f"The {NEW} new prompts beside the teacher").click()
    page.get_by_role("heading", name=f"{NEW} new prompts").wait_for()
    expect(page.locator("figure.rt-compared")).to_have_count(NEW)
    assert editor.loaded("figure.rt-compared img") == [128] * 2 * NEW
    page.goto(decided_at)
    page.locator("summary", has_text="Serve").click()
    page.locator("details[open]").get_by_label("Reason").fill("A rehearsal of the whole day.")
    page.locator("details[open] [type=submit]").click()
    page.get_by_text(f"{name} is active.").first.wait_for(timeout=4 * SECONDS * 1000)

    # The new prompts are covered, and the student makes a picture of one of them.
    assert f"{KEPT + NEW} covered" in legend()
    assert served() == ["student"] * NEW
    text = page.locator("#result_list .rt-wording strong").first.inner_text()
    page.goto("/")
    page.get_by_label("Prompt", exact=True).fill(text)
    page.locator(".variants").get_by_text(text, exact=True).first.click()
    page.get_by_role("button", name="Generate").click()
    card = page.locator(".card").first
    expect(card).to_contain_text(name, timeout=RUN_SECONDS * 1000)  # a worker loads it first
    assert editor.loaded(".card figure:not(.forming) img") == [128]
    (entry,) = shop.query(
        "SELECT actor, detail FROM generation_auditentry WHERE action = 'release_activated' AND subject = %s", name
    )  # fmt: skip
    assert entry["actor"] == "editor" and "A rehearsal of the whole day." in str(entry["detail"])

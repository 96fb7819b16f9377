"""Form at /: search, input, errors, and the job it creates."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from generation.catalogue.match_requests import Answer, Near
from generation.jobs import estimates
from generation.models import Job, OwnerLimits, PromptVariant, Release
from tests.client import API
from tests.factories import (
    cover,
    make_embedding,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_worker,
)
from tests.generation.encoders import EncodeThread
from tests.page_client import Person, checked, html, offered, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture(autouse=True)
def empty_caches():
    yield estimates._served_by.cache_clear()
    estimates._served_by.cache_clear()


STARTER = str(Path(settings.BASE_DIR) / "generation" / "starter" / "teacher")
CREATE = {"htmx": True, "HX-Trigger": "create"}


@pytest.fixture
def variants() -> list[PromptVariant]:
    """Three variants, encoded for the active student."""
    make_release(image_sizes=((64, 64), (32, 32)))
    found = [
        make_variant(text="a red glass vase", tags=["vase", "glass"]),
        make_variant(text="a blue glass bowl", tags=["bowl", "glass"]),
        make_variant(text="a green cube", tags=["cube"]),
    ]
    for variant in found:
        make_embedding(variant=variant)
    return found


# --- choice of a prompt ---------------------------------------------------------------------------
def test_the_page_shows_the_catalogue_with_its_tags(variants):
    page = Person().get("/")
    assert offered(page, "variant") == ["a-blue-glass-bowl", "a-green-cube", "a-red-glass-vase"]
    assert offered(page, "tag") == ["glass", "bowl", "cube", "vase"]
    assert checked(page, "variant") == checked(page, "tag") == []


def test_the_list_matches_the_typed_words_and_offers_them_as_a_prompt(variants):
    part = Person().get("/choices", {"text": "glass red"}, htmx=True)
    assert "<html" not in html(part)
    assert offered(part, "variant") == ["", "a-red-glass-vase"]
    assert checked(part, "variant") == ["a-red-glass-vase"]
    assert "My own text: glass red" in words(part)


def test_unknown_words_are_shown_while_a_text_is_typed(variants):
    def shown(answer) -> str:
        (found,) = re.findall(r'<p[^>]* id="unknown-words"[^>]*>(.*?)</p>', html(answer))
        return found

    make_release(name="starter", kind="teacher", has_encoder=True, path=STARTER)
    person = Person()
    assert 'aria-live="polite"' in html(person.get("/")) and shown(person.get("/")) == ""
    part = person.get("/choices", {"text": "a red elephant"}, htmx=True)
    assert "does not know “elephant”" in shown(part) and 'hx-swap-oob="innerHTML"' in html(part)
    assert shown(person.get("/choices", {"text": "a red gla"}, htmx=True)) == ""
    assert "does not know “elephant”" in shown(person.get("/", {"text": "a red elephant"}))


def test_the_list_matches_the_tags_and_keeps_a_matching_choice(variants):
    fields = {"tag": ["glass", "bowl"], "variant": "a-blue-glass-bowl"}
    part = Person().get("/choices", fields, htmx=True)
    assert checked(part, "variant") == offered(part, "variant") == ["a-blue-glass-bowl"]
    assert sorted(checked(part, "tag")) == ["bowl", "glass"]
    part = Person().get("/choices", {**fields, "tag": "cube"}, htmx=True)
    assert (checked(part, "variant"), offered(part, "variant")) == ([], ["a-green-cube"])


def test_the_url_of_the_list_redirects_to_the_whole_page(variants):
    answer = Person().get("/choices", {"text": "red vase", "tag": ["a", "b"]})
    assert (answer.status_code, answer["Location"]) == (302, "/?text=red+vase&tag=a&tag=b")


def test_without_javascript_a_button_searches_and_the_input_is_kept(variants):
    page = Person().post(
        "/", {"text": "glass", "looked": "", "look": "1", "n": "3", "seed": "7", "tag": "bowl"}
    )
    assert page.status_code == 200 and Job.objects.count() == 0
    assert offered(page, "variant") == ["", "a-blue-glass-bowl"]
    assert 'name="n" type="number" inputmode="numeric" min="1" max="10" value="3"' in html(page)
    assert 'value="7"' in html(page) and checked(page, "tag") == ["bowl"]


def test_the_query_fills_in_the_form(variants):
    page = Person().get(
        "/",
        {
            "variant": "a-green-cube",
            "n": "2",
            "seed": "5",
            "size": "32x32",
            "output_format": "png",
            "model": "old",
        },
    )
    assert checked(page, "variant") == ["a-green-cube"]
    for value in ("32x32", "png", "old"):  # a release that is not offered is kept
        assert f'<option value="{value}" selected>' in html(page)
    assert '<details class="more-options" open>' in html(page)


# --- submission -----------------------------------------------------------------------------------
def test_a_chosen_variant_becomes_a_job_of_the_person(variants):
    person = Person()
    form = {
        "variant": "a-green-cube",
        "text": "",
        "looked": "",
        "n": "2",
        "seed": " 7 ",
        "size": "32x32",
        "output_format": "png",
        "model": "",
    }
    answer = person.post("/", form)
    job = Job.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/jobs/{job.id}")
    assert (job.owner, job.via, job.api_key) == (person.user, "page", None)
    assert (job.variant.slug, job.n, job.seed, job.width, job.output_format) == (
        "a-green-cube",
        2,
        7,
        32,
        "png",
    )


def test_a_submission_returns_the_card_of_the_job_at_once(variants):
    card = Person().post("/", {"variant": "a-green-cube", "n": "2"}, **CREATE)
    job = Job.objects.get()
    assert card.status_code == 200 and html(card).lstrip().startswith(
        f'<article class="card" id="job-{job.id}"'
    )
    assert f'data-events="/jobs/{job.id}/events"' in html(card)
    assert html(card).count('class="forming"') == 2
    assert "Waiting · next in the queue" in words(card) and "No worker" in words(card)
    assert "Waiting: a green cube" in card["HX-Trigger"]


def test_a_card_shows_that_a_worker_loads_the_model_first(variants):
    make_worker()
    card = html(Person().post("/", {"variant": "a-green-cube"}, **CREATE))
    assert f'<p class="quiet">{estimates.LOADS_FIRST}</p>' in card


def test_typing_a_text_of_the_catalogue_needs_no_choice(variants):
    Person().post("/", {"text": " A green  CUBE", "variant": ""})
    assert Job.objects.get().variant.slug == "a-green-cube"


def test_words_typed_after_the_choice_override_it(variants):
    """The list was shown for other words, and the choice belongs to those."""
    Person().post("/", {"text": "a green cube", "looked": "vase", "variant": "a-red-glass-vase"})
    assert Job.objects.get().variant.slug == "a-green-cube"
    Person().post("/", {"text": "vase", "looked": "vase", "variant": "a-red-glass-vase"})
    assert Job.objects.latest("created_at").variant.slug == "a-red-glass-vase"


@pytest.fixture
def encoder(variants) -> None:
    make_release(name="teacher-1", kind=Release.Kind.TEACHER, has_encoder=True)
    make_worker(name="encode", queue="encode")


def test_the_card_shows_the_match_of_other_words(encoder, variants):
    near = Answer((Near(variants[0].pk, 0.991),))
    with EncodeThread({"the red vase": near}):
        card = Person().post("/", {"text": "the red vase"}, **CREATE)
    assert Job.objects.get().variant == variants[0]
    assert "The most similar prompt to the red vase (similarity 0.99)." in words(card)


def test_the_nearest_are_offered_where_none_is_near_enough(encoder, variants):
    make_release(name="teacher-1", kind=Release.Kind.TEACHER)
    cover(Release.objects.get(kind=Release.Kind.STUDENT), {variants[0].slug: ""})
    near = Answer(tuple(Near(variant.pk, 0.5) for variant in variants))
    with EncodeThread({"a purple giraffe": near}):
        answer = Person().post("/", {"text": "a purple giraffe", "n": "3"}, **CREATE)
    assert (answer.status_code, answer["HX-Retarget"], answer["HX-Reswap"]) == (
        422,
        "#create",
        "outerHTML",
    )
    assert Job.objects.count() == 0
    assert offered(answer, "variant")[:3] == [variant.slug for variant in variants]
    assert checked(answer, "variant") == []  # none is preselected
    offers = re.findall('<label class="variant near">.*?</label>', html(answer))
    assert ["made by the teacher" in offer for offer in offers] == [False, True, True]
    assert "noscript" not in html(answer)  # with htmx Enter would press the button in it
    assert "not similar enough" in words(answer)
    assert 'value="a purple giraffe"' in html(answer) and 'value="3"' in html(answer)


def test_enter_after_a_search_selects_the_first_prompt_that_was_found(variants):
    person = Person()
    found = person.get("/choices", {"text": "red vase", "variant": ""}, htmx=True)
    assert checked(found, "variant") == ["a-red-glass-vase"]
    assert "My own text: red vase" in words(found)
    form = {"text": "red vase", "looked": "red vase", "variant": "a-red-glass-vase"}
    person.post("/", form, **CREATE)
    assert Job.objects.get().variant.slug == "a-red-glass-vase"


def test_results_of_the_search_come_before_matches(encoder, variants):
    """The form was sent before the list was updated, and the text itself has no match."""
    far = next(variant for variant in variants if "vase" not in variant.text)
    with EncodeThread({"vase": Answer((Near(far.pk, 0.5),))}):
        answer = Person().post("/", {"text": "vase", "looked": ""}, **CREATE)
    assert answer.status_code == 422
    first, *_, last = offered(answer, "variant")[1:]
    assert "vase" in first and last == far.slug
    assert checked(answer, "variant") == [first]
    assert "Some prompts have these words" in words(answer)


def test_the_text_itself_stays_chosen_when_another_field_is_wrong(variants):
    form = {"text": "red vase", "looked": "red vase", "variant": "", "n": "many"}
    answer = Person().post("/", form, **CREATE)
    assert answer.status_code == 422 and checked(answer, "variant") == [""]


# --- refusals -------------------------------------------------------------------------------------
WRONG = [
    ({"variant": "", "text": ""}, "prompt", "Choose a prompt from the list, or write one."),
    ({"variant": "", "text": "word " * 13}, "prompt", "at most 12 are allowed"),
    ({"variant": "unknown"}, "prompt", "No prompt variant matches “unknown”."),
    ({"n": "0"}, "n", "Give a whole number from 1 to 10."),
    ({"n": "11"}, "n", "Give a whole number from 1 to 10."),
    ({"n": "many"}, "n", "Give a whole number from 1 to 10."),
    ({"seed": "-1"}, "seed", "Give a whole number from 0 to 4,294,967,295"),
    ({"seed": "4294967295", "n": "2"}, "seed", "seed must be from 0 to 4294967294."),
    ({"size": "48x48"}, "size", "size must be one of 64x64, 32x32 for the release student-1."),
    ({"output_format": "gif"}, "format", "is not a valid choice."),
    ({"model": "unknown"}, "model", "There is no release 'unknown'."),
]  # fmt: skip


@pytest.mark.parametrize(("form", "field", "message"), WRONG)
@pytest.mark.parametrize("is_part", [True, False])
def test_an_error_is_shown_at_its_field_and_the_input_is_kept(
    variants, form, field, message, is_part
):
    typed = {"variant": "a-green-cube", "n": "2", "seed": "41", "size": "32x32", **form}
    answer = Person().post("/", typed, **(CREATE if is_part else {}))
    assert answer.status_code == 422 and Job.objects.count() == 0
    page = html(answer)
    assert ("<html" in page) is not is_part
    error = page.split(f'id="error-{field}"', 1)[1].split("</p>", 1)[0]
    assert message in error
    assert page.count("aria-invalid") == 1 and f'aria-describedby="error-{field}"' in page
    for name, value in typed.items():
        if value and name != "variant":
            assert f'value="{value}"' in page, name
    if typed["variant"] == "a-green-cube":
        assert checked(answer, "variant") == ["a-green-cube"]


def test_a_full_queue_is_reported_with_the_time_to_retry(variants, settings):
    settings.MAX_QUEUED_JOBS = 1
    make_job()
    from generation.access import quotas

    quotas.queued.cache_clear()
    answer = Person().post("/", {"variant": "a-green-cube"}, **CREATE)
    assert answer.status_code == 422
    assert "1 job is queued, the limit." in words(answer) and "Try again in " in words(answer)


def test_a_refused_card_does_not_change_the_form(variants):
    """A button of a card repeats its request: an error is shown beside the form and does not replace its input."""
    answer = Person().post("/", {"variant": "gone"}, htmx=True)
    assert answer.status_code == 422 and "HX-Retarget" not in answer
    assert "No prompt variant" in answer["HX-Trigger"]
    assert answer["HX-Reswap"] == "none"


# --- the page -------------------------------------------------------------------------------------
def test_the_page_shows_only_the_persons_own_unfinished_jobs(variants):
    person = Person()
    own = make_job(owner=person.user, status="running", variant=variants[0])
    make_job(owner=make_user(username="somebody"), variant=variants[1])
    page = person.get("/")
    assert html(page).count("<article") == 1 and f'id="job-{own.id}"' in html(page)


def test_a_longer_history_costs_no_more_queries(variants):
    person = Person()

    def queries() -> int:
        """Return the fewest queries of several requests: the second one finds what is cached for a second."""
        counts = []
        for _ in range(4):
            with CaptureQueriesContext(connection) as captured:
                assert person.get("/").status_code == 200
            counts.append(len(captured))
        return min(counts)

    make_job(owner=person.user, variant=variants[0], status="running")
    make_job(owner=person.user, variant=variants[0], status="succeeded")
    few = queries()
    for number in range(20):
        make_variant(text=f"a vase {number}", tags=["vase"])
        make_job(owner=person.user, variant=variants[1], status="succeeded")
        make_job(owner=person.user, variant=variants[2], status="running")
    assert queries() == few <= 15


# --- limits ---------------------------------------------------------------------------------------
def test_the_limits_of_a_person_apply_to_the_page_and_to_keys(variants):
    owner = make_user(username="person")
    OwnerLimits.objects.create(owner=owner, images_per_day=2)
    fields = {"variant": "a-green-cube", "n": "1"}
    assert API(owner=owner).post("/v1/jobs", {"variant": "a-green-cube"}).status_code == 202
    assert Person().post("/", fields).status_code == 302

    refused = Person().post("/", fields)

    assert refused.status_code == 422 and Job.objects.count() == 2
    assert "The quota of this account is 2 images per day" in words(refused)
    assert API(owner=owner).post("/v1/jobs", {"variant": "a-green-cube"}).status_code == 429


@pytest.mark.parametrize("is_own", [True, False])
def test_submissions_on_the_page_count_as_requests_of_the_person(variants, settings, is_own):
    if is_own:
        OwnerLimits.objects.create(owner=make_user(username="person"), requests_per_minute=2)
    else:
        settings.REQUESTS_PER_MINUTE = 2
    api, fields = API(owner=make_user(username="person")), {"variant": "a-green-cube", "n": "1"}
    assert api.get("/v1/releases").status_code == 200
    assert Person().post("/", fields).status_code == 302

    assert "This account may send 2 requests a minute" in words(Person().post("/", fields))
    assert api.get("/v1/releases").status_code == 429
    assert Person().get("/").status_code == 200

"""Forms of every kind of row in the admin, opened by links with values that no field can read."""

from datetime import UTC, datetime

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from distillation.models import ImageSource
from tests.factories import make_user, make_variant

pytestmark = pytest.mark.django_db

NAMES = sorted(model._meta.label_lower for model in admin.site._registry)


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def add(label: str) -> str:
    return reverse(f"admin:{label.replace('.', '_')}_add")


@pytest.mark.parametrize("label", NAMES)
def test_no_value_in_the_link_of_a_form_is_a_server_error(client, label):
    page = add(label)
    if client.get(page).status_code == 403:
        return  # nobody adds such rows
    (model,) = [model for model in admin.site._registry if model._meta.label_lower == label]
    for value in ("x", "1,x", "2027-01-01", "9" * 30, "9" * 5000, ""):
        given = {field.name: value for field in model._meta.get_fields()}
        assert client.get(page, given).status_code == 200, value


def test_values_that_a_field_can_read_are_shown(client):
    variant = make_variant()
    page = client.get(add("distillation.imagesource"), {"variants": str(variant.pk), "name": "a"})
    assert initial(page) == {"variants": [str(variant.pk)], "name": "a", "tags": ""}
    page = client.get(add("generation.apikey"), {"expires_at": "2027-01-01 12:00", "weight": "x"})
    shown = initial(page)
    assert shown["expires_at"] == datetime(2027, 1, 1, 12, tzinfo=UTC) and "weight" not in shown
    assert "2027-01-01" in page.content.decode()


def initial(page) -> dict:
    return page.context["adminform"].form.initial


def test_a_wrong_form_with_a_malformed_choice_is_refused_with_a_message(client):
    sent = {"name": "", "variants": "x"}
    answer = client.post(add("distillation.imagesource"), sent, headers={"Accept": "text/html"})
    assert answer.status_code == 400 and "cannot read a value" in answer.content.decode()
    assert not ImageSource.objects.exists()

"""Admin of detectors: bits, accuracy, activation."""

import getpass

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from distillation.detectors import registry as detectors
from distillation.models import Detector
from generation.models import AuditEntry
from tests.distillation.detector.folders import make_version
from tests.factories import make_user

pytestmark = pytest.mark.django_db

TEST = {
    "good": 200, "good_lost": 3, "lost_by": {"red": 3}, "bad": 50, "bad_caught": 49,
    "defects": {"blurred": {"pictures": 50, "caught": 49, "at_fault": {"sharp": 48}}},
    "bits": {"sharp": {"precision": 0.991, "recall": None, "threshold": 0.4, "pictures": 250}},
}  # fmt: skip


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


@pytest.fixture
def row(tmp_path) -> Detector:
    row = detectors.register(make_version(tmp_path / "made", name="mine"))
    row.manifest["figures"] |= {"test": TEST, "pictures": {"trained": 900, "held_out": 300}}
    row.save()
    return row


def url(page: str, *args: object) -> str:
    return reverse(f"admin:distillation_detector_{page}", args=args)


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_list_shows_bits_and_figures(admin, row):
    page = text(admin.get(url("changelist")))
    assert "mine" in page and "candidate" in page and "red, green, blue, sharp" in page
    assert "49 of 50 (98.0 %)" in page and "3 of 200 (1.5 %)" in page


def test_the_page_of_a_detector_shows_groups_defects_and_bits(admin, row):
    page = text(admin.get(url("change", row.pk)))
    assert "red, green, blue<br>sharp" in page
    assert "blurred" in page and "sharp 48" in page and "99.1 %" in page
    assert "900 images, calibrated on 300 others" in page


def test_a_detector_without_figures_has_a_page(admin, tmp_path):
    row = detectors.register(make_version(tmp_path / "made"))
    text(admin.get(url("change", row.pk)))


def test_a_detector_without_an_image_size_is_listed(admin, row):
    del row.manifest["image_size"]
    row.save()
    assert "4 bits, –" in text(admin.get(url("changelist")))


def test_a_person_activates_a_version(admin, row):
    answer = admin.post(f"{url('change', row.pk)[: -len('change/')]}do/activate/", follow=True)
    assert "mine is active." in text(answer)
    assert detectors.active() == row
    entries = AuditEntry.objects.filter(subject="mine").order_by("pk")
    assert list(entries.values_list("action", "actor")) == [
        ("detector_registered", getpass.getuser()),
        ("detector_activated", "admin"),
    ]
    assert 'value="activate"' not in text(admin.get(url("change", row.pk)))


def test_two_versions_cannot_be_activated_at_once(admin, row, tmp_path):
    other = detectors.register(make_version(tmp_path / "other", name="other"))
    given = {"action": "activate", "_selected_action": [row.pk, other.pk]}
    assert "Only one version can be active" in text(
        admin.post(url("changelist"), given, follow=True)
    )
    assert not Detector.objects.filter(status="active").exists()


def test_a_user_with_the_view_permission_alone_cannot_activate(row):
    user = make_user(username="viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_detector"))
    client = Client()
    client.force_login(user)
    text(client.get(url("change", row.pk)))
    assert client.post(f"{url('change', row.pk)[: -len('change/')]}do/activate/").status_code == 403

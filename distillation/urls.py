"""URL routes of the distillation API."""

from django.urls import path

from distillation.api import views

urlpatterns = [
    path("v1/runs", views.RunList.as_view(), name="runs"),
    path("v1/runs/<slug:name>", views.RunDetail.as_view(), name="run"),
    path("v1/runs/<slug:name>/pause", views.RunPause.as_view(), name="run-pause"),
    path("v1/runs/<slug:name>/resume", views.RunResume.as_view(), name="run-resume"),
    path("v1/runs/<slug:name>/cancel", views.RunCancel.as_view(), name="run-cancel"),
]

"""URL routes of the distillation API."""

from django.urls import path

from distillation.api import design_views, views

urlpatterns = [
    path("v1/designs", design_views.DesignList.as_view(), name="designs"),
    path("v1/designs/<int:number>", design_views.DesignDetail.as_view(), name="design"),
    path(
        "v1/designs/<int:number>/cancel", design_views.DesignCancel.as_view(), name="design-cancel"
    ),
    path("v1/runs", views.RunList.as_view(), name="runs"),
    path("v1/runs/<slug:name>", views.RunDetail.as_view(), name="run"),
    path("v1/runs/<slug:name>/pause", views.RunPause.as_view(), name="run-pause"),
    path("v1/runs/<slug:name>/resume", views.RunResume.as_view(), name="run-resume"),
    path("v1/runs/<slug:name>/cancel", views.RunCancel.as_view(), name="run-cancel"),
]

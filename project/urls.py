"""What is reachable over HTTP: the page at /, the API, the admin, health."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("generation.urls")),
    path("", include("distillation.urls")),
]

handler400 = "generation.views.problems.bad_request"
handler403 = "generation.views.problems.forbidden"
handler404 = "generation.views.problems.not_found"
handler500 = "generation.views.problems.server_error"

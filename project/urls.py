"""URLs of the page at /, the API, the admin and the health checks."""

from django.contrib import admin
from django.urls import include, path

from generation.page import error_pages
from generation.page.login import limited

urlpatterns = [
    path("admin/login/", limited(admin.site.login)),  # overrides the admin's own
    path("admin/", admin.site.urls),
    path("", include("generation.urls")),
    path("", include("distillation.urls")),
]

handler400 = error_pages.bad_request
handler403 = error_pages.forbidden
handler404 = error_pages.not_found
handler500 = error_pages.server_error

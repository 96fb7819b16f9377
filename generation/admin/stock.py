"""Admin of stocked images, which idle workers make before a job requests them."""

from django.contrib import admin
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin
from generation.models import StockedImage


@admin.register(StockedImage)
class StockedImageAdmin(ReadOnlyMixin, ModelAdmin):
    when_empty = "Idle workers make images in advance if the setting STOCK is above 0."
    list_display = ("seed", "prompt", "release", "size", "format", "size_bytes", "made")
    list_filter = (("variant", AutocompleteSelectFilter), "format")
    list_filter_submit = True
    list_select_related = ("release", "variant")
    search_fields = ("variant__slug", "variant__text", "release__name")

    @display(description="seed")
    def seed(self, row: StockedImage) -> str:
        return str(row)

    @display(description="prompt variant", ordering="variant")
    def prompt(self, row: StockedImage) -> str:
        return pictures.wording(row.variant.text, row.variant.slug)

    @display(description="size")
    def size(self, row: StockedImage) -> str:
        return f"{row.width}×{row.height}"

    made = pictures.when_column("created_at", "made")

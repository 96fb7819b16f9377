"""Admin of API keys, users and groups. A key's plain text is shown once, on the page that follows its creation."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin, StackedInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from generation.access import audit, keys, quotas
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.admin.audit import AuditedFormMixin
from generation.admin.initial import ReadableInitialMixin
from generation.errors import KeyRefused
from generation.models import APIKey, OwnerLimits


class KeyForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=APIKey.Scope.choices, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = APIKey
        fields = ("name", "owner", "scopes", "expires_at", *keys.LIMITS)

    person: Any = None  # the user who fills in the form

    def clean(self) -> dict[str, Any] | None:
        """Refuse limits above the defaults, unless the user may change the limits of persons."""
        data = super().clean() or self.cleaned_data
        if not self.person.has_perm("generation.change_ownerlimits"):
            for field in ("weight", "requests_per_minute", "retention_days"):
                if field in self.changed_data and not _is_narrower(field, data.get(field)):
                    self.add_error(
                        field,
                        "This exceeds the default. Only people who may change the limits of persons can set it.",
                    )
        return data

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at and expires_at <= timezone.now():
            raise forms.ValidationError("Give a time in the future.")
        return expires_at


def _is_narrower(field: str, value: int | None) -> bool:
    """Return whether the key's limit is at most the default limit without a key."""
    if field == "weight":
        return value == 1
    most = (
        settings.REQUESTS_PER_MINUTE if field == "requests_per_minute" else settings.RETENTION_DAYS
    )
    return value is None or not most or 0 < value <= most


LIMIT_ROWS = [
    ("weight", "requests_per_minute"),
    ("images_per_day", "device_seconds_per_day"),
    ("max_queued_jobs", "retention_days"),
]
USAGE_DAYS = 7
# Preselected in the form of a new key: enough to make pictures.
USUAL = (APIKey.Scope.JOBS_WRITE, APIKey.Scope.JOBS_READ, APIKey.Scope.VARIANTS_READ)


@admin.register(APIKey)
class APIKeyAdmin(ReadableInitialMixin, ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    form = KeyForm
    editable = keys.LIMITS
    readonly_fields = ("scope_list", "state")
    change_form_outer_before_template = "generation/admin/apikey.html"
    list_display = ("named", "state", "owner", "scope_list", "limits", "expires", "last_used")
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    actions = ("revoke",)
    object_actions = ("rotate", "revoke")

    def get_queryset(self, request: HttpRequest) -> QuerySet[APIKey]:
        """Return a staff user's own keys; all keys for a superuser."""
        keys = super().get_queryset(request)
        return keys if request.user.is_superuser else keys.filter(owner=request.user)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_add_permission(self, request)

    def get_fieldsets(self, request: HttpRequest, obj: APIKey | None = None) -> Any:
        limits = ("Limits", {"fields": LIMIT_ROWS})
        if obj is None:
            return [(None, {"fields": ["name", "owner", "scopes", "expires_at"]}), limits]
        facts = [("name", "prefix"), ("owner", "state"), "scope_list", "replaced_by"]
        times = [("created_at", "expires_at"), ("revoked_at", "last_used_at")]
        return [(None, {"fields": [*facts, *times]}), limits]

    def get_readonly_fields(self, request: HttpRequest, obj: APIKey | None = None) -> list[str]:
        return [] if obj is None else super().get_readonly_fields(request, obj)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {
            "owner": request.user.pk,
            "scopes": [scope for scope in USUAL if scope in keys.scopes_of(request.user)],
            **super().get_changeform_initial_data(request),
        }

    def get_form(self, request: HttpRequest, obj: Any = None, *args: Any, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, *args, **kwargs)
        form.person = request.user
        if obj is None:
            given = set(keys.scopes_of(request.user))
            scopes = form.base_fields["scopes"]
            scopes.choices = [choice for choice in APIKey.Scope.choices if choice[0] in given]
        return form

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "owner" and not request.user.is_superuser:
            kwargs["queryset"] = User.objects.filter(username=request.user.get_username())
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        data = form.cleaned_data
        limits = {field: data[field] for field in keys.LIMITS if field in data}
        if change:
            keys.set_limits(obj, limits)
            return
        key, plain = keys.issue(
            data["owner"],
            data["name"],
            data["scopes"],
            expires_at=data["expires_at"],
            limits=limits,
        )
        obj.__dict__.update(key.__dict__)
        request.issued_key = plain  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: Any = None
    ) -> HttpResponse:
        return self._show_once(request, obj, request.issued_key)  # type: ignore[attr-defined]

    def _show_once(
        self, request: HttpRequest, key: APIKey, plain: str, *, replaced: APIKey | None = None
    ) -> HttpResponse:
        """Show the key, without a redirect, which would store it in a session or cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": f"API key “{key.name}”",
            "opts": self.opts,
            "key": key,
            "plain": plain,
            "replaced": replaced,
        }
        return TemplateResponse(request, "generation/admin/key.html", context)

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return {"key": obj, "usage": quotas.usage(obj, days=USAGE_DAYS)}

    # --- columns
    @display(description="key", ordering="name")
    def named(self, key: APIKey) -> str:
        return pictures.wording(key.name, f"{key.prefix}…")

    @display(description="state")
    def state(self, key: APIKey) -> str:
        return pictures.badge(key.state)

    @display(description="scopes")
    def scope_list(self, key: APIKey) -> str:
        return ", ".join(key.scopes)

    @display(description="limits")
    def limits(self, key: APIKey) -> str:
        return ", ".join(keys.limits_in_words(key)) or "–"

    expires = pictures.when_column("expires_at", "expires")

    last_used = pictures.when_column("last_used_at", "last used")

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        if name == "rotate":
            return obj.state == APIKey.ACTIVE and obj.replaced_by_id is None
        return obj.revoked_at is None

    def confirmation(self, name: str, obj: Any) -> str:
        if name == "rotate":
            return (
                f"This creates a new key with the same scopes and limits. {obj.prefix} remains valid for "
                f"{keys.GRACE.days} days, or until it is revoked."
            )
        if name == "revoke":
            return f"Requests with {obj.prefix}… are refused from now on. This cannot be undone."
        return ""

    @action(description="Rotate", icon="autorenew", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        old = queryset.get()
        try:
            key, plain = keys.rotate(old)
        except KeyRefused as error:
            messages.error(request, error.detail)
            return None
        self.log_change(request, old, f"Rotated: replaced by {key.prefix}.")
        return self._show_once(request, key, plain, replaced=old)

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet) -> None:
        revoked = [key for key in queryset.filter(revoked_at=None) if keys.revoke(key)]
        for key in revoked:
            self.log_change(request, key, "Revoked.")
        messages.success(
            request,
            f"{len(revoked)} keys were revoked." if len(revoked) != 1 else "The key was revoked.",
        )


# --- users and groups in unfold's theme -----------------------------------------------------------
class OwnerLimitsInline(StackedInline):
    """Limits of a person, hidden from users without the permission on limits."""

    model = OwnerLimits
    extra = 0
    fields = [quotas.LIMITS[:2], quotas.LIMITS[2:]]


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(AuditedFormMixin, DjangoUserAdmin, ModelAdmin):
    noun = "user"
    secret = ("password", "password1", "password2", "usable_password")
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = (OwnerLimitsInline,)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return () if obj is None else super().get_inlines(request, obj)

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:
        before = self.get_object(request, unquote(id))
        answer = super().user_change_password(request, id, form_url)
        after = self.get_object(request, unquote(id))
        if before is not None and after is not None and after.password != before.password:
            audit.record("user_password_changed", after)
        return answer

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        super().save_formset(request, form, formset, change)
        for row in (*formset.new_objects, *(row for row, _ in formset.changed_objects)):
            quotas.record(row)
        for row in formset.deleted_objects:
            quotas.record(row, is_removed=True)


@admin.register(Group)
class GroupAdmin(AuditedFormMixin, DjangoGroupAdmin, ModelAdmin):
    noun = "group"

"""Who may do what: API keys, users, groups. A key's plain text is shown once, in the answer that makes it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin
from generation.models import APIKey


class KeyForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=APIKey.Scope.choices, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = APIKey
        fields = ("name", "owner", "scopes", "expires_at")

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at and expires_at <= timezone.now():
            raise forms.ValidationError("Give a time that is still to come.")
        return expires_at


def state_of(key: APIKey) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at and key.expires_at <= timezone.now():
        return "expired"
    return "active"


@admin.register(APIKey)
class APIKeyAdmin(ObjectActionsMixin, ModelAdmin):
    form = KeyForm
    list_display = ("named", "state", "owner", "scope_list", "expires", "last_used")
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    actions = ("revoke",)
    object_actions = ("revoke",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[APIKey]:
        """Staff see their own keys, superusers everybody's."""
        keys = super().get_queryset(request)
        return keys if request.user.is_superuser else keys.filter(owner=request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a revoked key stays as a trace of who could do what

    def get_fieldsets(self, request: HttpRequest, obj: APIKey | None = None) -> Any:
        if obj is None:
            return [(None, {"fields": ["name", "owner", "scopes", "expires_at"]})]
        facts = ["name", "prefix", "owner", "scope_list", "state"]
        times = ("created_at", "expires_at", "revoked_at", "last_used_at")
        return [(None, {"fields": [*facts, times[:2], times[2:]]})]

    def get_readonly_fields(self, request: HttpRequest, obj: APIKey | None = None) -> list[str]:
        if obj is None:
            return []
        return [*(field.name for field in self.opts.fields), "scope_list", "state"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        scopes = APIKey.Scope.values
        return {
            "owner": request.user.pk,
            "scopes": scopes,
            **super().get_changeform_initial_data(request),
        }

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "owner" and not request.user.is_superuser:
            kwargs["queryset"] = User.objects.filter(username=request.user.get_username())
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        data = form.cleaned_data
        key, plain = APIKey.objects.issue(
            data["owner"], data["name"], data["scopes"], expires_at=data["expires_at"]
        )
        obj.__dict__.update(key.__dict__)
        request.issued_key = plain  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: Any = None
    ) -> HttpResponse:
        """The one page that shows the key. No redirect, so that it is stored neither in a session nor in a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": f"API key “{obj.name}”",
            "opts": self.opts,
            "key": obj,
            "plain": request.issued_key,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "generation/admin/key.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        only = {"show_save_and_continue": False, "show_save_and_add_another": False}
        if object_id:
            if request.method == "POST":
                raise PermissionDenied  # a key is made and revoked, never edited
            only |= {"show_save": False, "show_close": True}
        return super().changeform_view(request, object_id, form_url, only | (extra_context or {}))

    # --- columns
    @display(description="key", ordering="name")
    def named(self, key: APIKey) -> str:
        return pictures.wording(key.name, f"{key.prefix}…")

    @display(description="state")
    def state(self, key: APIKey) -> str:
        return pictures.badge(state_of(key))

    @display(description="scopes")
    def scope_list(self, key: APIKey) -> str:
        return ", ".join(key.scopes)

    @display(description="expires", ordering="expires_at")
    def expires(self, key: APIKey) -> str:
        return pictures.when(key.expires_at)

    @display(description="last used", ordering="last_used_at")
    def last_used(self, key: APIKey) -> str:
        return pictures.when(key.last_used_at)

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return obj.revoked_at is None

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet) -> None:
        keys = list(queryset.filter(revoked_at=None))
        for key in keys:
            key.revoked_at = timezone.now()
            key.save(update_fields=["revoked_at"])
            self.log_change(request, key, "Revoked.")
        messages.success(
            request, f"{len(keys)} keys were revoked." if len(keys) != 1 else "The key was revoked."
        )


# --- users and groups in unfold's dress -----------------------------------------------------------
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    pass

"""Buttons on an object's page for the actions of the list, sent by POST."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from generation.errors import GenerationError, InvalidRequest

CONFIRMED = "confirmed"  # field of the confirmation form
SHOWN = 20  # questions on the confirmation page of an action on many rows


@dataclass(frozen=True)
class Number:
    """A whole number that the confirmation form of an action asks for. name: of its field; value: the preset one."""

    name: str
    label: str
    least: int
    most: int
    value: int


def whole_number(request: HttpRequest, field: str) -> int:
    """Return the number that the form's field has. Raises InvalidRequest."""
    given = request.POST.get(field, "")
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise InvalidRequest(f"{field}: give a whole number, not {given[:20]!r}.", parameter=field)
    return int(given)


def selection(request: HttpRequest, pks: Sequence[Any]) -> dict[str, Any]:
    """Return the context of a form that submits the same selection of rows again.

    All rows of a list are selected by one field, since a form may have only 1000.
    """
    is_all = request.POST.get("select_across") == "1"
    return {
        "field": ACTION_CHECKBOX_NAME,
        "ids": pks[:1] if is_all else pks,
        "is_all": is_all,
        "back": request.get_full_path(),
    }


class ObjectActionsMixin:
    """Mixin of ModelAdmin. object_actions: names of its actions (unfold's own buttons would change state by GET)."""

    object_actions: tuple[str, ...] = ()
    change_form_outer_before_template = "generation/admin/object.html"
    admin_site: Any
    opts: Any
    has_view_permission: Any
    log_change: Any

    def action_applies(self, name: str, obj: Any) -> bool:
        """Return whether the action applies to this object now."""
        return True

    def confirmation(self, name: str, obj: Any) -> str:
        """Return the confirmation question of the action, or "" to run it without."""
        return ""

    def number(self, name: str, obj: Any) -> Number | None:
        """Return the number that the confirmation of the action asks for, None if it asks for none."""
        return None

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """Return the context of `panel_template`, shown above the object's fields."""
        return {}

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return the actions of the list, with a confirmation page for those that need it."""
        actions = super().get_actions(request)  # type: ignore[misc]
        return {
            name: (self._after_question(name, run) if name in self.object_actions else run, *rest)
            for name, (run, *rest) in actions.items()
        }

    def _after_question(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def ask_first(admin: Any, request: HttpRequest, queryset: QuerySet) -> Any:
            chosen = list(queryset)
            fitting = self._fitting(request, name, chosen)
            if len(fitting) < len(chosen):
                if not fitting:
                    return None
                queryset = queryset.filter(pk__in=[obj.pk for obj in fitting])
            if CONFIRMED not in request.POST:
                asked = [
                    (obj, question)
                    for obj in fitting
                    if self.action_applies(name, obj) and (question := self.confirmation(name, obj))
                ]
                if asked:
                    return self._question(request, name, fitting, asked)
            return run(admin, request, queryset)

        return ask_first

    def _fitting(self, request: HttpRequest, name: str, chosen: list[Any]) -> list[Any]:
        """Return the objects that the action may change, and report how many are left out.

        An action without a question may run on all: it refuses single objects in its own words.
        """
        fitting = [
            obj
            for obj in chosen
            if self.action_applies(name, obj) or not self.confirmation(name, obj)
        ]
        if left_out := len(chosen) - len(fitting):
            title, noun = getattr(self, name).short_description, self.opts.verbose_name_plural
            said = (
                f"{title} does not fit the state of {chosen[0]}. Nothing was changed."
                if len(chosen) == 1
                else f"{title}: {left_out} of {len(chosen)} {noun} {pluralize(left_out, 'is,are')} left out, "
                "because it does not fit their state."
            )
            messages.warning(request, said)
        return fitting

    def _question(
        self, request: HttpRequest, name: str, chosen: list[Any], asked: list[tuple[Any, str]]
    ) -> HttpResponse:
        title = getattr(self, name).short_description
        context = {
            **self.admin_site.each_context(request),
            "title": f"{title}?",
            "opts": self.opts,
            "action": name,
            "button": title,
            "asked": asked[:SHOWN],
            "number": self.number(name, asked[0][0]),
            "others": len(asked) - len(asked[:SHOWN]),
            "confirmed": CONFIRMED,
            **selection(request, [obj.pk for obj in chosen]),
        }
        return TemplateResponse(request, "generation/admin/question.html", context)

    def change_each(
        self,
        request: HttpRequest,
        queryset: QuerySet,
        change: Callable[[Any], Any],
        *,
        said: str = "{0.name} is {0.status}.",
        logged: str = "{status} in the admin.",
        select_one: str = "",
    ) -> None:
        """Call `change` for each object, and log and report the result or the error.

        said, logged: format strings for the object that `change` returns. select_one: the error message unless exactly
        one object is selected; "" allows more.
        """
        chosen = list(queryset)
        if select_one and len(chosen) != 1:
            messages.error(request, select_one)
            return
        for obj in chosen:
            try:
                changed = change(obj)
            except GenerationError as error:
                messages.error(request, error.detail)
                continue
            status = changed.get_status_display()
            self.log_change(request, changed, logged.format(changed, status=status))
            messages.success(request, said.format(changed))

    def page(
        self, route: str, view: Callable[..., HttpResponse], name: str, *, cacheable: bool = False
    ) -> URLPattern:
        """Return the path of a page for people who may view the objects."""

        def checked(request: HttpRequest, **given: Any) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            return view(request, **given)

        return path(route, self.admin_site.admin_view(checked, cacheable=cacheable), name=name)

    def get_urls(self) -> list:
        view = self.admin_site.admin_view(self.object_action_view)
        own = path("<path:object_id>/do/<str:name>/", view, name=self._url_name())
        return [own, *super().get_urls()]  # type: ignore[misc]

    def _url_name(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_do"

    def _allowed(self, request: HttpRequest, name: str) -> bool:
        permissions = getattr(getattr(self, name), "allowed_permissions", ())
        return all(
            getattr(self, f"has_{permission}_permission")(request) for permission in permissions
        )

    def object_action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if name not in self.object_actions:
            raise Http404
        if not self._allowed(request, name):
            raise PermissionDenied
        found = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if found is None:
            raise Http404
        rows = self.get_queryset(request).filter(pk=found.pk)  # type: ignore[attr-defined]
        answer = None
        if self._fitting(request, name, [found]):
            answer = getattr(self, name)(request, rows)
        change = reverse(
            f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id]
        )
        return answer or redirect(change)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        context = dict(extra_context or {})
        obj = self.get_object(request, unquote(object_id)) if object_id else None  # type: ignore[attr-defined]
        if obj is not None:
            context["object_actions"] = self._buttons(request, obj)
            context |= self.panel(request, obj)
        try:
            return super().changeform_view(request, object_id, form_url, context)  # type: ignore[misc]
        except GenerationError as error:
            # The object changed between validation and write.
            messages.error(request, error.detail)
            if not hasattr(request, "given"):
                return redirect(request.get_full_path())
            request.method = "GET"  # the form is shown again with `given` as its initial values
            return super().changeform_view(request, object_id, form_url, context)  # type: ignore[misc]

    def _buttons(self, request: HttpRequest, obj: Model) -> list[dict[str, Any]]:
        return [
            {
                "title": getattr(self, name).short_description,
                "icon": getattr(self, name).icon,
                "url": reverse(f"admin:{self._url_name()}", args=[obj.pk, name]),
                "confirmation": self.confirmation(name, obj),
                "number": self.number(name, obj),
            }
            for name in self.object_actions
            if self._allowed(request, name) and self.action_applies(name, obj)
        ]


class ReadOnlyMixin:
    """Mixin of ModelAdmin for rows that the system writes: shown, not edited. Actions may need `change`.

    editable: fields that users may set; only these are written.
    """

    editable: tuple[str, ...] = ()
    opts: Any

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        own = super().get_readonly_fields(request, obj)  # type: ignore[misc]
        is_editor = self.has_change_permission(request, obj)  # type: ignore[attr-defined]
        editable = self.editable if is_editor else ()
        return [*own, *(field.name for field in self.opts.fields if field.name not in editable)]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.save(update_fields=self.editable)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if request.method == "POST" and not self.editable:
            raise PermissionDenied
        hidden = {
            "show_save_and_continue": False,
            "show_save_and_add_another": False,
            "show_close": True,
        }
        if not self.editable:
            hidden["show_save"] = False
        return super().changeform_view(  # type: ignore[misc]
            request, object_id, form_url, hidden | (extra_context or {})
        )


class RequestedMixin(ReadOnlyMixin):
    """Mixin of ModelAdmin for rows that a user creates by a form and that only the system changes later.

    add_form: the form, without the model's own fields; add_fields: its fields, in order.
    """

    add_form: Any
    add_fields: tuple[str, ...]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super(ReadOnlyMixin, self).has_add_permission(request)  # type: ignore[misc]

    def get_form(self, request: HttpRequest, obj: Any = None, *args: Any, **kwargs: Any) -> Any:
        if obj is None:
            return self.add_form
        return super().get_form(request, obj, *args, **kwargs)  # type: ignore[misc]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [(None, {"fields": self.add_fields})]
        return super().get_fieldsets(request, obj)  # type: ignore[misc]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [] if obj is None else super().get_readonly_fields(request, obj)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if object_id is not None:
            return super().changeform_view(request, object_id, form_url, extra_context)
        hidden = ("show_save_and_continue", "show_save_and_add_another")
        context = dict.fromkeys(hidden, False) | (extra_context or {})
        # ReadOnlyMixin forbids POST.
        return super(ReadOnlyMixin, self).changeform_view(request, None, form_url, context)  # type: ignore[misc]

"""The root: a page of links for whoever opens the address in a browser."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Retort</title>
<style>
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1.5rem;
         color: #222; background: #fafafa }
  li { margin: .4rem 0 } a { color: #6b21a8 }
  @media (prefers-color-scheme: dark) {
    body { color: #ddd; background: #18181b }
    a { color: #c4a1f5 }
  }
</style>
<h1>Retort</h1>
<p>Pictures for a catalogue of prompts.</p>
<ul>
  <li><a href="/admin/">Admin</a>: catalogue, jobs, releases, keys</li>
  <li><a href="/v1/docs">API</a>: <code>/v1/</code> with its <a href="/v1/openapi.json">OpenAPI description</a></li>
  <li><a href="/health/ready">Health</a> and <a href="/metrics">figures</a></li>
</ul>
</html>
"""


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)

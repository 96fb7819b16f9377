"""Model Context Protocol server with which an assistant lists the prompts of a Retort server and makes pictures.

The assistant starts it and uses its standard input and output; it uses Retort's REST API:

    RETORT_URL=https://retort.example.com RETORT_KEY=rt_… python mcp_server.py

It needs only this file and the package `mcp`. The key needs the scopes variants:read, jobs:write and jobs:read.
"""

import os
import sys
from typing import Annotated, Any

import httpx
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

WAIT_SECONDS = 60  # maximum wait of a request for its job
MAX_WAITS = 5
TIMEOUT = httpx.Timeout(WAIT_SECONDS + 10, connect=10)

server = MCPServer(
    "retort",
    instructions="Makes small pictures for a fixed catalogue of prompts. Find a prompt with list_prompts, then make "
    "pictures of it with make_picture.",
)


class Prompt(BaseModel):
    variant: str
    text: str
    tags: list[str]


class Prompts(BaseModel):
    """A page of prompts. more: value of `cursor` for the next page, "" on the last one."""

    prompts: list[Prompt]
    more: str


@server.tool()
async def list_prompts(
    words: Annotated[str, Field(description="A part of the text; empty: any.")] = "",
    tag: Annotated[str, Field(description="A tag that the prompts must have.")] = "",
    cursor: Annotated[str, Field(description="The value of `more` in the previous answer.")] = "",
) -> Prompts:
    """List prompts of the catalogue that pictures can be made of."""
    asked = {"limit": "100", "q": words, "tag": tag, "cursor": cursor}
    async with _api() as api:
        answer = await _send(
            api,
            "GET",
            "/v1/variants",
            params={name: value for name, value in asked.items() if value},
        )
    following = answer["next"]
    return Prompts(
        prompts=[
            Prompt(variant=row["slug"], text=row["text"], tags=row["tags"])
            for row in answer["results"]
        ],
        more=httpx.URL(following).params.get("cursor", "") if following else "",
    )


@server.tool(structured_output=False)
async def make_picture(
    prompt: Annotated[str, Field(description="The text of a prompt, as in the catalogue.")],
    n: Annotated[int, Field(ge=1, le=10, description="Number of pictures.")] = 1,
    seed: Annotated[
        int | None, Field(ge=0, le=2**32 - 1, description="The same seed gives the same picture.")
    ] = None,
) -> list[str | Image]:
    """Make pictures of a prompt, and return them with their seeds."""
    body: dict[str, Any] = {"text": prompt, "n": n}
    if seed is not None:
        body["seed"] = seed
    async with _api() as api:
        job = await _send(
            api, "POST", "/v1/jobs", json=body, headers={"Prefer": f"wait={WAIT_SECONDS}"}
        )
        for _ in range(MAX_WAITS):
            if job["status"] in ("succeeded", "failed", "canceled"):
                break
            job = await _send(api, "GET", f"/v1/jobs/{job['id']}", params={"wait": WAIT_SECONDS})
        if job["status"] != "succeeded":
            why = job["error"]["detail"] if job["error"] else "It is not finished. Try again later."
            raise ToolError(f"The job {job['id']} is {job['status']}. {why}")
        content: list[str | Image] = []
        for image in job["images"]:
            content.append(f"{job['text']}, seed {image['seed']}, by {job['model']}")
            content.append(Image(data=await _read(api, image["url"]), format=image["format"]))
    return content


def _api() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=os.environ["RETORT_URL"].rstrip("/"), timeout=TIMEOUT, follow_redirects=True
    )


async def _send(
    api: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    params: dict[str, Any] | None = None,
    json: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the JSON response. Raises ToolError with the API's message."""
    sent = {"Authorization": f"Bearer {os.environ['RETORT_KEY']}", **(headers or {})}
    try:
        answer = await api.request(method, path, params=params, json=json, headers=sent)
        found = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ToolError(f"Retort cannot be reached at {api.base_url}: {error!r}") from error
    if answer.is_error:
        near = ", ".join(one["text"] for one in found.get("nearest", ()))
        raise ToolError(f"{found['detail']}{f' Similar prompts: {near}.' if near else ''}")
    return found


async def _read(api: httpx.AsyncClient, url: str) -> bytes:
    """Return the file behind a signed link, which needs no key."""
    try:
        answer = await api.get(url)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise ToolError(f"The picture cannot be read: {error!r}") from error
    return answer.content


if __name__ == "__main__":
    for name in ("RETORT_URL", "RETORT_KEY"):
        if not os.environ.get(name):
            sys.exit(f"{name} is not set. Set it to the {'URL' if 'URL' in name else 'API key'}.")
    server.run()

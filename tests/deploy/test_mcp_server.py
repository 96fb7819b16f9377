"""The MCP server, started as an assistant starts it, against the web process under uvicorn."""

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from generation.models import Job
from tests.factories import make_embedding, make_key, make_release, make_variant
from tests.fake_worker import in_background, make_pictures
from tests.web import ROOT, Web

pytestmark = pytest.mark.slow

Talk = Callable[[Client], Awaitable[Any]]


@pytest.fixture
def ask(web: Web, transactional_db, redis_server, settings) -> Iterator[Callable[[Talk], Any]]:
    """Run a conversation with a server of its own."""
    settings.MEDIA_ROOT = web.log.parent / "media"
    make_release()
    for text, tag in (("a red vase", "vase"), ("a blue bowl", "bowl")):
        make_embedding(variant=make_variant(text=text, tags=[tag]))
    environment = {"RETORT_URL": web.url, "RETORT_KEY": make_key()[1]}

    def ask(talk: Talk) -> Any:
        async def run() -> Any:
            program = StdioServerParameters(
                command=sys.executable,
                args=[str(ROOT / "deploy" / "mcp_server.py")],
                env=environment,
            )
            async with Client(stdio_client(program)) as client:
                return await talk(client)

        return asyncio.run(asyncio.wait_for(run(), 120))

    yield ask


def test_the_server_describes_its_tools_and_lists_prompts(ask):
    async def talk(client: Client) -> Any:
        tools = await client.list_tools()
        every = await client.call_tool("list_prompts", {})
        some = await client.call_tool("list_prompts", {"tag": "vase"})
        return [tool.name for tool in tools.tools], every, some

    names, every, some = ask(talk)
    assert not every.is_error, every.content
    assert names == ["list_prompts", "make_picture"]
    texts = [row["text"] for row in every.structured_content["prompts"]]
    assert texts == ["a blue bowl", "a red vase"] and every.structured_content["more"] == ""
    assert some.structured_content["prompts"] == [
        {"variant": "a-red-vase", "text": "a red vase", "tags": ["vase"]}
    ]


def test_the_server_makes_pictures(ask):
    with in_background() as begin:
        begin(make_pictures)
        made = ask(
            lambda client: client.call_tool(
                "make_picture", {"prompt": "a red vase", "n": 2, "seed": 7}
            )
        )
    assert not made.is_error
    first, picture, second, _ = made.content
    assert (first.text, second.text) == (
        "a red vase, seed 7, by student-1",
        "a red vase, seed 8, by student-1",
    )
    assert picture.mime_type == "image/webp"
    assert base64.b64decode(picture.data)[8:12] == b"WEBP"
    assert Job.objects.get().n == 2


def test_a_refusal_has_the_message_of_the_api(ask):
    refused = ask(lambda client: client.call_tool("make_picture", {"prompt": "a green cube"}))
    assert refused.is_error and Job.objects.count() == 0
    assert "No prompt variant has the text" in refused.content[0].text

"""The README's shell blocks that need no running stack: those with `make` name existing targets and variables.

The others are executed with a running stack in tests/acceptance/test_readme.py, so that every block is tested.
"""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

ROOT = Path(__file__).resolve().parents[1]
# Sections whose blocks tests/acceptance/test_readme.py executes, in the order of the README.
EXECUTED = [
    "A first request",
    "Commands beside a running server",
    "A Stable Diffusion model of your own",
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md",
             *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]  # fmt: skip


def blocks(heading: str | None = None) -> list[str]:
    """Return the `sh` blocks of the README, or of the section under this heading (up to the next heading)."""
    text = (ROOT / "README.md").read_text()
    if heading is not None:
        # A comment in a block is not a heading: only lines outside of blocks count.
        parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
        section, inside = [], False
        for part in parts:
            if part.startswith("```"):
                section += [part] if inside else []
                continue
            for line in re.findall(r"^#+ (.+)$", part, re.MULTILINE):
                inside = line == heading
        assert section, f"the README has no blocks under {heading!r}"
        text = "\n".join(section)
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def is_make(block: str) -> bool:
    """Return whether all commands are `make`: they install and start the test environment, so they are only checked."""
    return all(line.startswith("make ") for line in block.splitlines())


def test_the_arguments_of_manage_py_are_those_of_its_commands():
    lines = [line for block in blocks() for line in block.splitlines() if "manage.py" in line]
    assert lines
    for line in lines:
        _, name, *arguments = shlex.split(line[line.index("manage.py") :], comments=True)
        command = load_command_class(get_commands()[name], name)
        command.create_parser("manage.py", name).parse_args(arguments)


def test_the_readme_has_the_commands_that_a_newcomer_needs():
    lines = [line for block in blocks() if is_make(block) for line in block.splitlines()]
    assert {"make demo", "make run", "make test"} <= set(lines)


@pytest.mark.parametrize("block", [block for block in blocks() if is_make(block)])
def test_a_make_block_names_a_target_and_variables_of_the_makefile(block: str):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(
        re.findall(r"\b([A-Z_]+)=", makefile.split("# Variables:", 1)[1].splitlines()[0])
    )
    for line in block.splitlines():
        _, target, *assignments = shlex.split(line)
        assert target in targets, line
        assert {word.split("=")[0] for word in assignments} <= variables, line


def test_every_other_block_is_under_a_heading_that_is_executed():
    executed = [block for heading in EXECUTED for block in blocks(heading)]
    assert executed == [block for block in blocks() if not is_make(block)]


def test_the_folders_in_the_readmes_tree_exist():
    tree = re.search(
        r"^## The tree\n\n```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert tree
    parent = ""
    for line in tree[1].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            parent = name
        path = ROOT / (parent + name if line.startswith(" ") else name)
        assert path.is_dir(), path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_have_existing_targets(document: str):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (path.parent / link).exists(), link

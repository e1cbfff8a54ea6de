"""Every code block of README.md and below docs runs, or says why it does not and is checked by its names."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.documents.blocks import Block, MarkError, blocks
from tests.documents.names import problems_of_python, problems_of_shell
from tests.documents.stage import BlockFailed, Stage
from tests.documents.warm_python import warm_python
from tests.needs import program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "console")
READ_BY = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
# Sphinx's own directives, and what is no code.
NOT_CODE = ("", "text", "mermaid")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with warm_python(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def check(block: Block) -> None:
    """What can be said of a block without running it; raises `BlockFailed`."""
    problems: list[str] = []
    if block.language == "python":
        try:
            problems = problems_of_python(block.code)
        except (SyntaxError, ImportError) as error:
            problems = [f"{type(error).__name__}: {error}"]
    elif block.language in SHELLS:
        problems = problems_of_shell(block.code)
    elif block.language in READ_BY:
        try:
            READ_BY[block.language](block.code)
        except ValueError as error:
            problems = [str(error)]
        except yaml.YAMLError as error:
            problems = [str(error)]
    elif not (block.language in NOT_CODE or block.language.startswith("{") or block.file):
        problems = [f"nothing here knows the language {block.language!r}"]
    if problems:
        raise BlockFailed(f"{block.where}: {'; '.join(problems)}")


def programs_of(found: list[Block]) -> list[str]:
    """Programs that the page's commands need and that are not on every machine."""
    said = "\n".join(block.code for block in found if is_run(block) and block.language in SHELLS)
    return [name for name in ("curl", "openssl") if f"{name} " in said]


def is_run(block: Block) -> bool:
    return not block.why_not_run and (block.language in ("python", *SHELLS) or bool(block.file))


def go_through(page: Path, folder: Path, warm: Path) -> None:
    found = blocks(page)
    for block in found:
        check(block)
    for name in programs_of(found):
        program(name)
    if any(map(is_run, found)):
        with Stage(folder, warm) as stage:
            for block in filter(is_run, found):
                stage.run(block)


@pytest.mark.timeout(300)  # a second a command on a machine that has nothing else to do, but a page has dozens
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=relative)
def test_the_blocks_of_a_page_do_what_it_says(page: Path, tmp_path: Path, warm: Path):
    go_through(page, tmp_path, warm)


# ---------------------------------------------------------------------------------------------------------------------
FAR = "<!-- not run: far away -->\n"


# That what is above would find a mistake


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "page.md:6.*AssertionError"),
        ("```python\nimport os; os._exit(3)\n```\n", "the process ended"),
        ("<!-- prints: 3 -->\n```python\nprint(4)\n```\n", "shows\n3\n.*seen:\n4"),
        ("```bash\nanabranch run nowhere.py\n```\n", "ended with exit code 3"),
        ("```bash\nanabranch rum\n```\n", "no 'anabranch rum'"),
        ("```console\n$ echo one; false | cat\n```\n", "ended with exit code 1"),
        ("```console\n$ echo one\ntwo … three\n```\n", "shows\ntwo … three.*seen:\none"),
        ("<!-- until: never -->\n```bash\necho one\n```\n", "ended without 'never'"),
        ("```python\nfrom anabranch import nothing\n```\n", "anabranch has no 'nothing'"),
        (FAR + "```python\nanabranch.executors.DaskExecutor(adress=1)\n```\n", "DaskExecutor takes no 'adress'"),
        (FAR + "```python\nstate.is_sucessful()\n```\n", "state has no 'is_sucessful'"),
        (FAR + "```bash\nanabranch resume --form x 3aab\n```\n", "No such option.*--form"),
        (FAR + "```python\ndef\n```\n", "SyntaxError"),
        ("```yaml\na: [\n```\n", "flow node"),
        ("```json\n{\n```\n", "Expecting"),
        ("```toml\na = \n```\n", "Invalid value"),
        ("```cobol\nSTOP RUN\n```\n", "language 'cobol'"),
    ],
)  # fmt: skip
def test_a_block_that_is_wrong_is_found(text: str, message: str, tmp_path: Path, warm: Path):
    with pytest.raises(BlockFailed, match=f"(?s){message}"):
        go_through(page_of(tmp_path, text), tmp_path, warm)


@pytest.mark.parametrize(
    "text", ["<!-- no run: typo -->\n", "<!-- not run: lost -->\n\nText between.\n\n```python\n1\n```\n"]
)
def test_a_mark_that_means_nothing_is_found(text: str, tmp_path: Path):
    with pytest.raises(MarkError):
        blocks(page_of(tmp_path, text))


def test_whoever_reads_a_page_can_type_its_first_flow(tmp_path: Path, warm: Path):
    text = "```python\n# here.py\nprint('ok')\n```\n\n```console\n$ python here.py && ls\nok\nhere.py\n```\n"
    go_through(page_of(tmp_path, text), tmp_path, warm)

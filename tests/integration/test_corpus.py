"""The demo flow gives the numbers of a plain loop over the same files, whoever runs it and whatever is broken."""

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import corpus as example

from anabranch import Flow
from anabranch.demo.corpus import build, flow
from anabranch.demo.facts import FileFacts, measure_source
from anabranch.demo.sources import CorpusError, list_sources, read_source
from anabranch.demo.summary import Summary, summarise_corpus, summary_as_json
from anabranch.executors import DaskExecutor, LocalExecutor

LIMIT = 150  # files; about a second of parsing, enough for several chunks

BROKEN = {
    "syntax.py": (b"def f(:\n", "SyntaxError"),
    "encoding.py": (b"x = 1\ny = 2\nz = '\xff'\n", "UnicodeDecodeError"),
    "null.py": (b"x = 1\0\n", None),  # a ValueError or a SyntaxError, by the version of Python
    "deep.py": (b"x = " + b"(" * 300 + b")" * 300 + b"\n", "SyntaxError"),
    "<img src=x onerror=alert(1)>.py": (b"class:\n", "SyntaxError"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Part of the standard library, and a package of broken files that has one good file, too."""
    directory = tmp_path_factory.mktemp("corpus") / "broken"
    directory.mkdir()
    for name, (data, _) in BROKEN.items():
        (directory / name).write_bytes(data)
    (directory / "fine.py").write_text("def f(x):\n    return x or 1\n")
    library = Path(sysconfig.get_paths()["stdlib"])
    return os.pathsep.join([str(directory.parent), str(library / "json"), str(library / "asyncio")])


@pytest.fixture(scope="module")
def expected(root: str) -> Summary:
    """What a plain loop finds."""
    files = list_sources(root, limit=LIMIT)
    outcomes: list[FileFacts | CorpusError] = []
    for file in files:
        try:
            outcomes.append(measure_source(read_source(file)))
        except CorpusError as error:
            outcomes.append(error)
    return summarise_corpus(files, outcomes, root)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("local", id="local"),
        pytest.param("dask", id="dask", marks=pytest.mark.cluster),
    ],
)
def executor(request: pytest.FixtureRequest) -> Iterator[LocalExecutor | DaskExecutor]:
    if request.param == "local":
        yield LocalExecutor()
    else:
        yield DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})


def parameters(root: str, output: Path, **others: object) -> dict[str, object]:
    return {"root": root, "limit": LIMIT, "output": str(output), **others}


def test_the_flow_finds_what_a_plain_loop_finds(
    root: str, expected: Summary, executor: LocalExecutor | DaskExecutor, tmp_path: Path
) -> None:
    state = flow.run(parameters=parameters(root, tmp_path), executor=executor, keep=["summarise"])

    assert state.is_successful(), state.message
    assert state.result["summarise"].result == expected
    assert json.loads((tmp_path / "corpus.json").read_text()) == json.loads(json.dumps(summary_as_json(expected)))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]
    assert state.result["write_json"].result == str(tmp_path / "corpus.json")


def test_broken_files_are_failed_elements_with_their_path(
    root: str, expected: Summary, executor: LocalExecutor | DaskExecutor, tmp_path: Path
) -> None:
    state = flow.run(parameters=parameters(root, tmp_path, report=False), executor=executor, keep=["summarise"])

    found = {Path(each.path).name: each for each in state.result["summarise"].result.failures}
    assert found.keys() == BROKEN.keys()
    assert all(kind in (None, found[name].kind) for name, (_, kind) in BROKEN.items())

    measured = state.result["measure"]
    failed = [element for element in measured.map_states if element.is_failed()]
    assert measured.is_failed()
    assert len(measured.map_states) == expected.total.files + len(BROKEN)
    assert len(failed) == len(BROKEN)
    assert all(any(each.path in element.message for each in found.values()) for element in failed)
    # Broken or not, every file could be read.
    assert state.result["read"].is_successful()


def test_the_report_is_skipped_unless_asked_for(root: str, tmp_path: Path) -> None:
    state = flow.run(parameters=parameters(root, tmp_path, report="no"), executor=LocalExecutor())

    assert state.is_successful()
    assert state.result["write_json"].is_skipped()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_tried_three_times_and_listed(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("x = 1\n")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")

    state = flow.run(parameters=parameters(str(tmp_path), tmp_path / "out"), keep=["summarise"])

    assert state.is_successful(), state.message
    assert [element.attempt for element in state.result["read"].map_states] == [3, 1]
    (failure,) = state.result["summarise"].result.failures
    assert failure.path == str(tmp_path / "gone.py")
    assert "No such file or directory" in failure.reason


def test_an_empty_directory_gives_a_summary_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    state = flow.run(parameters=parameters(str(tmp_path / "empty"), tmp_path), keep=["summarise"])

    assert state.is_successful(), state.message
    assert state.result["summarise"].result.total.files == 0
    assert json.loads((tmp_path / "corpus.json").read_text())["packages"] == []


def test_a_root_that_is_not_there_fails_the_flow_and_names_it(tmp_path: Path) -> None:
    state = flow.run(parameters=parameters(str(tmp_path / "nowhere"), tmp_path))

    assert state.is_failed()
    assert "nowhere: NotADirectoryError: root must be a directory" in state.result["list_files"].message
    assert state.result["summarise"].is_failed()
    assert list(tmp_path.iterdir()) == []


def test_the_example_is_wired_like_the_flow_of_the_package() -> None:
    def shape(flow: Flow) -> tuple[list[str], set[tuple[str, str]]]:
        edges = {(up.name, node.name) for node in flow.sorted_tasks() for up in flow.upstream_tasks(node)}
        return sorted(node.name for node in flow.sorted_tasks()), edges

    assert shape(example.flow) == shape(build())

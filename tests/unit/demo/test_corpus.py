"""The plain functions of the demo flow: what is listed, what is counted, what is reported."""

import json
import os
import pickle
import warnings
from pathlib import Path

import cloudpickle
import pytest

from anabranch.demo.facts import FileFacts, measure_source
from anabranch.demo.sources import CorpusError, Source, SourceFile, default_roots, list_sources, package_of, read_source
from anabranch.demo.summary import Summary, explain_failure, quantile, summarise_corpus, summary_as_json, summary_lines


def measured(text: str | bytes, package: str = "pkg", path: str = "/pkg/a.py") -> FileFacts:
    data = text.encode() if isinstance(text, str) else text
    return measure_source(Source(SourceFile(path, package), data))


def summary_of(*outcomes: FileFacts | BaseException | None, package: str = "pkg") -> Summary:
    files = [
        SourceFile(getattr(each, "path", f"/{package}/{place}.py"), getattr(each, "package", package))
        for place, each in enumerate(outcomes)
    ]
    return summarise_corpus(files, outcomes, "/")


# Listing -------------------------------------------------------------------------------------------------------------


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")


def test_files_are_listed_with_their_packages_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b/x.py", "a/deep/er/y.py", "single.py", "a/readme.txt", "a/__pycache__/y.py", ".venv/lib/z.py")

    files = list_sources(str(tmp_path))

    assert [(os.path.relpath(file.path, tmp_path), file.package) for file in files] == [
        (os.path.join("a", "deep", "er", "y.py"), "a"),
        (os.path.join("b", "x.py"), "b"),
        ("single.py", "single"),
    ]


def test_a_root_inside_another_is_listed_once_and_as_its_own(tmp_path: Path) -> None:
    write(tmp_path, "a/x.py", "a/inner/pkg/y.py")

    files = list_sources(os.pathsep.join([str(tmp_path), str(tmp_path / "a" / "inner")]))

    assert [file.package for file in files] == ["pkg", "a"]


def test_a_link_to_a_directory_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a/x.py")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)

    assert len(list_sources(str(tmp_path))) == 1


def test_the_default_is_what_this_interpreter_imports() -> None:
    files = list_sources()
    packages = {file.package for file in files}

    assert {"json", "abc", "dask", "pytest"} <= packages
    assert not {"site-packages", "dist-packages"} & packages
    assert all(any(file.path.startswith(root) for root in default_roots()) for file in files)
    assert len({file.path for file in files}) == len(files) > 1_000


def test_a_limit_takes_files_from_everywhere(tmp_path: Path) -> None:
    write(tmp_path, *(f"{package}/{number}.py" for package in "abcd" for number in range(10)))

    assert [file.package for file in list_sources(str(tmp_path), limit=4)] == ["a", "b", "c", "d"]
    assert len(list_sources(str(tmp_path), limit=1_000)) == 40


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1; it was 0"):
        list_sources(str(tmp_path), limit=0)


@pytest.mark.parametrize("root", ["/no/such/place", "", os.pathsep])
def test_a_root_that_is_no_directory_is_refused(root: str) -> None:
    with pytest.raises(CorpusError, match="root must be a directory that exists"):
        list_sources(root)


def test_an_empty_directory_has_no_files(tmp_path: Path) -> None:
    assert list_sources(str(tmp_path)) == []


def test_the_last_site_packages_of_a_path_decides_the_package() -> None:
    assert package_of("/v/lib/site-packages/a/site-packages/b/c.py", "/v") == "b"
    assert package_of("/v/site-packages.py", "/v") == "site-packages"


def test_a_missing_file_is_an_os_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.py"):
        read_source(SourceFile(str(tmp_path / "gone.py"), "gone"))


# Measuring -----------------------------------------------------------------------------------------------------------

EXAMPLE = '''\
"""A module.

Of three lines."""
# A comment.
import os

class Public:
    """Documented."""

    def method(self, xs):
        for x in xs:
            if x and os.name or not x:
                return [y for y in xs if y]

    def _private(self):
        "Not counted as documentation of the public."

    class Inner:
        pass

async def undocumented():
    def nested():
        return 1 if 2 else 3
    match 1:
        case 1:
            pass
        case _:
            pass
    try:
        pass
    except ValueError:
        pass
'''


def test_a_module_is_counted() -> None:
    facts = measured(EXAMPLE)

    assert facts.lines == len(EXAMPLE.splitlines()) == facts.code + facts.docs + facts.comments + facts.blank
    assert (facts.docs, facts.comments, facts.blank) == (5, 1, 5)
    assert (facts.functions, facts.classes) == (4, 2)
    # for, if, and, or, comprehension, its if; the conditional expression; two cases and a handler.
    assert facts.branches == 6 + 1 + 3
    # The module, Public and its method, Inner, undocumented; of these the module and Public have a docstring.
    assert (facts.documentable, facts.documented) == (5, 2)
    assert sorted(facts.shapes) == [(2, 1), (2, 2), (4, 7), (12, 4)]
    assert facts.most_complex is not None
    assert (facts.most_complex.name, facts.most_complex.line) == ("Public.method", 10)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_a_file_without_code_needs_no_docstring(text: str) -> None:
    facts = measured(text)

    assert (facts.documentable, facts.functions, facts.most_complex) == (0, 0, None)
    assert facts.lines == text.count("\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_gives_the_same_counts(end: str) -> None:
    facts, expected = measured(EXAMPLE.replace("\n", end)), measured(EXAMPLE)

    assert (facts.lines, facts.docs, facts.shapes) == (expected.lines, expected.docs, expected.shapes)


def test_characters_that_only_look_like_line_ends_are_none() -> None:
    assert measured('x = "\u2028\x0c"\ny = 1').lines == 2


def test_a_declared_encoding_and_a_byte_order_mark_are_understood() -> None:
    assert measured("# coding: latin-1\ns = 'é'\n".encode("latin-1")).code == 1
    assert measured("\ufeffs = 'é'\n").code == 1


def test_deep_code_is_counted() -> None:
    assert measured("".join(f"{' ' * depth}if 1:\n" for depth in range(90)) + " " * 90 + "pass\n").branches == 90
    assert measured("x = 0" + " + 1" * 500 + "\n").branches == 0


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"def f(:\n", "SyntaxError", "(line 1)"),
        (b"if 1:\npass\n", "IndentationError", "(line 2)"),
        (b"x = 1\ny = 2\nz = '\xff'\n", "UnicodeDecodeError", "can't decode byte 0xff"),
        (b"# coding: nope\n", "SyntaxError", "unknown encoding"),
        (b"# coding: hex\n", "LookupError", "not a text encoding"),
        (b"x = '" + b"9" * 10 + b"\0'\n", None, "null bytes"),
        (b"x = " + b"-" * 200_000 + b"1\n", None, "/pkg/a.py"),
        (b"x = a" + b".b" * 1_000_000 + b"\n", None, "/pkg/a.py"),
        (b"x = " + b"(" * 300 + b")" * 300 + b"\n", None, "nested"),
    ],
)
def test_what_is_not_python_fails_with_its_path_and_the_reason(data: bytes, kind: str | None, message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        measured(data)

    assert str(caught.value).startswith("/pkg/a.py: ")
    assert message in str(caught.value)
    assert caught.value.__cause__ is not None
    assert caught.value.kind == type(caught.value.__cause__).__name__
    assert kind in (None, caught.value.kind)


def test_warnings_about_the_files_are_silenced_and_only_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)

        measured("x = '\\d'\nassert (1, 'always true')\nif 1 is 1: pass\n")

        assert warnings.filters == filters


def test_errors_and_facts_travel_between_processes() -> None:
    error = CorpusError("/a.py", "SyntaxError", "no (line 1)")
    facts = measured(EXAMPLE)

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.path, copy.kind, copy.detail) == (str(error), "/a.py", "SyntaxError", "no (line 1)")
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert len(pickle.dumps(facts)) < 500


def test_the_functions_can_be_shipped_to_where_the_package_is_not() -> None:
    from anabranch.demo import facts, sources, summary

    modules = [facts, sources, summary]
    try:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        shipped = cloudpickle.loads(cloudpickle.dumps((measure_source, summarise_corpus)))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)

    assert [function.__module__ for function in shipped] == [
        "anabranch.demo.facts",
        "anabranch.demo.summary",
    ]


# Summing up ----------------------------------------------------------------------------------------------------------


def test_packages_add_up_to_the_total_and_come_largest_first() -> None:
    small, large = measured("x = 1\n", "small"), measured(EXAMPLE, "large")

    summary = summary_of(small, large, large)

    assert [(package.name, package.files, package.lines) for package in summary.packages] == [
        ("large", 2, 2 * large.lines),
        ("small", 1, 1),
    ]
    assert summary.total.functions == 2 * large.functions
    assert summary.packages[0].docstring_coverage == 2 / 5
    assert summary.packages[0].mean_complexity == (1 + 2 + 4 + 7) / 4
    assert sum(count for _, _, count in summary.shapes) == 8


def test_failed_and_skipped_files_are_listed_and_counted_for_their_package() -> None:
    summary = summary_of(CorpusError("/pkg/0.py", "SyntaxError", "bad: (line 1)"), None, ConnectionError("gone"))

    assert [(failure.path, failure.kind, failure.reason) for failure in summary.failures] == [
        ("/pkg/0.py", "SyntaxError", "bad: (line 1)"),
        ("/pkg/1.py", "Skipped", "skipped"),
        ("/pkg/2.py", "ConnectionError", "gone"),
    ]
    assert [(package.name, package.files, package.failed) for package in summary.packages] == [("pkg", 0, 3)]


def test_an_exception_that_stands_for_another_is_understood_by_its_text() -> None:
    stand_in = RuntimeError(f"upstream failed with CorpusError: {CorpusError('/a.py', 'SyntaxError', 'bad')}")

    failure = explain_failure(SourceFile("/a.py", "a"), stand_in)

    assert (failure.kind, failure.reason) == ("SyntaxError", "bad")


def test_lists_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarise_corpus([SourceFile("/a.py", "a")], [])


def test_quantiles_hold_every_value() -> None:
    counts = {value: value for value in range(1, 200)}

    assert quantile(counts, 0) == 1
    assert quantile(counts, 1.0) == 199
    assert quantile({}, 0.5) == 0


def test_json_has_the_numbers_of_the_summary() -> None:
    summary = summary_of(measured(EXAMPLE), CorpusError("/pkg/x.py", "SyntaxError", "bad"))

    found = json.loads(json.dumps(summary_as_json(summary)))

    assert found["totals"]["lines"] == summary.total.lines
    assert found["totals"]["docstring_coverage"] == 0.4
    assert found["packages"][0]["failed"] == 1
    assert found["functions"]["complexity"] == {"median": 2, "p90": 7, "p99": 7, "max": 7}
    assert found["failures"] == [{"path": "/pkg/x.py", "package": "pkg", "kind": "SyntaxError", "reason": "bad"}]
    assert found["most_complex"][0]["name"] == "Public.method"


def test_lines_for_a_terminal_are_aligned_bounded_and_without_control_characters() -> None:
    facts = [measured(EXAMPLE, f"package{number}") for number in range(30)]
    failures = [CorpusError("/pkg/x.py", "SyntaxError", "\x1b[31mred\n") for _ in range(30)]

    lines = summary_lines(summary_of(*facts, *failures), top=5)

    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines if line.startswith("package")}) == 1
    assert "… and 26 more" in lines  # 30 packages and the one of the failures
    assert "  … and 25 more" in lines
    assert len(lines) < 25


def test_a_file_name_that_is_not_utf_8_is_shown_escaped() -> None:
    summary = summary_of(
        measured(EXAMPLE, "p\udcff", "/p\udcff/a\n.py"), CorpusError("/pkg/x.py", "SyntaxError", "\udcff")
    )

    json.dumps(summary_as_json(summary)).encode("utf-8")

    assert any(line.startswith("p\\udcff ") for line in summary_lines(summary))


@pytest.mark.parametrize(
    "summary",
    [
        summary_of(),
        summary_of(CorpusError("/pkg/x.py", "SyntaxError", "bad")),
        summary_of(measured("")),
        summary_of(measured("x = 1\n")),
        summary_of(measured("def f(): pass\n")),
    ],
    ids=["no files", "only failures", "an empty file", "no functions", "one function"],
)
def test_a_summary_is_made_of_however_little_there_is(summary: Summary) -> None:
    assert summary_lines(summary)
    assert json.dumps(summary_as_json(summary))

"""The corpus as a whole: totals, one row a package, the failed files; as values, as JSON and as lines of text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from anabranch.base.texts import printable
from anabranch.demo.facts import FileFacts, FunctionFacts
from anabranch.demo.sources import SourceFile

MOST_COMPLEX = 15
"""How many of the most complex functions are kept: as many as a reader looks at."""


@dataclass(frozen=True, slots=True)
class PackageSummary:
    """The files of one package, added up; or of all packages."""

    name: str
    files: int
    """Files that were measured."""
    failed: int
    """Files that could not be."""
    nbytes: int
    code: int
    docs: int
    comments: int
    blank: int
    functions: int
    classes: int
    branches: int
    complexity: int
    """Sum over all functions."""
    documentable: int
    documented: int

    @property
    def lines(self) -> int:
        """All lines of the measured files."""
        return self.code + self.docs + self.comments + self.blank

    @property
    def docstring_coverage(self) -> float | None:
        """Part of the public definitions that have a docstring, 0 to 1; None if there is none to document."""
        return self.documented / self.documentable if self.documentable else None

    @property
    def mean_complexity(self) -> float | None:
        """Mean cyclomatic complexity of a function; None if there is none."""
        return self.complexity / self.functions if self.functions else None


@dataclass(frozen=True, slots=True)
class UnmeasuredFile:
    """A file that could not be measured, and why."""

    path: str
    package: str
    kind: str
    """Name of the exception at the root of it."""
    reason: str


@dataclass(frozen=True, slots=True)
class ComplexFunction:
    """A function among the most complex ones, with its file."""

    path: str
    package: str
    function: FunctionFacts


@dataclass(frozen=True, slots=True)
class Summary:
    """All that is reported about a corpus."""

    root: str
    packages: tuple[PackageSummary, ...]
    """Most lines first."""
    shapes: tuple[tuple[int, int, int], ...]
    """Lines, complexity, and how many functions have just these; sorted."""
    most_complex: tuple[ComplexFunction, ...]
    """At most one of each file, most complex first."""
    failures: tuple[UnmeasuredFile, ...]
    """In the order of the files."""

    @property
    def total(self) -> PackageSummary:
        """All packages added up."""
        return add_up("total", self.packages)

    def function_lines(self) -> Counter[int]:
        """How many functions have how many lines."""
        return _sum_pairs((lines, count) for lines, _, count in self.shapes)

    def function_complexity(self) -> Counter[int]:
        """How many functions have which complexity."""
        return _sum_pairs((complexity, count) for _, complexity, count in self.shapes)


def summarise_corpus(
    files: Sequence[SourceFile], outcomes: Sequence[FileFacts | BaseException | None], root: str | None = None
) -> Summary:
    """Add up what was found, package by package.

    Parameters
    ----------
    files
        All files that were asked for.
    outcomes
        For each of them its facts, or the exception that it ended with, or None if it was skipped.
    root
        Where the files were looked for, as the user said it.
    """
    measured: defaultdict[str, list[FileFacts]] = defaultdict(list)
    failures: list[UnmeasuredFile] = []
    for file, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, FileFacts):
            measured[file.package].append(outcome)
        else:
            failures.append(explain_failure(file, outcome))
    failed = Counter(failure.package for failure in failures)
    packages = (_package(name, measured[name], failed[name]) for name in {**measured, **failed})
    facts = [each for group in measured.values() for each in group]
    shapes = Counter(shape for each in facts for shape in each.shapes)
    return Summary(
        root=root or "standard library and site-packages",
        packages=tuple(sorted(packages, key=lambda package: (-package.lines, package.name))),
        shapes=tuple((lines, complexity, count) for (lines, complexity), count in sorted(shapes.items())),
        most_complex=_most_complex(facts),
        failures=tuple(failures),
    )


def explain_failure(file: SourceFile, outcome: BaseException | None) -> UnmeasuredFile:
    """Why a file has no facts.

    Read from the text of the exception, not from its class: where many elements fail, what reaches a join may be
    another exception that stands for theirs and tells their message.
    """
    if outcome is None:
        return UnmeasuredFile(file.path, file.package, "Skipped", "skipped")
    text = str(outcome)
    _, _, told = text.partition(f"{file.path}: ")  # as a CorpusError says it
    kind, _, reason = told.partition(": ")
    if reason:
        return UnmeasuredFile(file.path, file.package, kind, reason)
    return UnmeasuredFile(file.path, file.package, type(outcome).__name__, text)


def add_up(name: str, packages: Iterable[PackageSummary]) -> PackageSummary:
    """One summary with the sums of several."""
    rows = list(packages)
    return PackageSummary(
        name=name,
        files=sum(row.files for row in rows),
        failed=sum(row.failed for row in rows),
        nbytes=sum(row.nbytes for row in rows),
        code=sum(row.code for row in rows),
        docs=sum(row.docs for row in rows),
        comments=sum(row.comments for row in rows),
        blank=sum(row.blank for row in rows),
        functions=sum(row.functions for row in rows),
        classes=sum(row.classes for row in rows),
        branches=sum(row.branches for row in rows),
        complexity=sum(row.complexity for row in rows),
        documentable=sum(row.documentable for row in rows),
        documented=sum(row.documented for row in rows),
    )


def quantile(counts: Mapping[int, int], part: float) -> int:
    """The smallest value that at least `part` of all values do not exceed; 0 if there are none.

    Examples
    --------
    >>> quantile({1: 5, 10: 4, 99: 1}, 0.5), quantile({1: 5, 10: 4, 99: 1}, 0.95)
    (1, 99)
    """
    wanted = part * sum(counts.values())
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return 0


def summary_as_json(summary: Summary) -> dict[str, object]:
    """The summary in plain JSON types, with what is derived from it."""
    return {
        "root": summary.root,
        "totals": _row_of_package(summary.total),
        "functions": {
            "lines": _sort_counts(summary.function_lines()),
            "complexity": _sort_counts(summary.function_complexity()),
        },
        "packages": [_row_of_package(package) for package in summary.packages],
        "most_complex": [
            {"path": each.path, "package": each.package, **asdict(each.function)} for each in summary.most_complex
        ],
        "failures": [asdict(failure) for failure in summary.failures],
    }


def summary_lines(summary: Summary, *, top: int = 10) -> list[str]:
    """The summary for a terminal: totals, the largest packages as a table, the first failures."""
    total, largest = summary.total, summary.packages[:top]
    lines = [
        f"{total.files:,} of {total.files + total.failed:,} files measured in {printable(summary.root)}",
        f"{total.lines:,} lines, {total.functions:,} functions, {total.classes:,} classes, {total.branches:,} branches"
        f"; {percent(total.docstring_coverage)} of public definitions have a docstring",
    ]
    if largest:
        header = ("package", "files", "lines", "functions", "classes", "branches", "docstrings", "complexity")
        lines += ["", *_align_rows([header, *map(package_row, largest)])]
    if len(summary.packages) > top:
        lines.append(f"… and {len(summary.packages) - top:,} more")
    if summary.failures:
        lines += ["", f"{len(summary.failures):,} failed"]
        lines += [f"  {printable(f'{each.path}: {each.kind}: {each.reason}')}" for each in summary.failures[:top]]
    if len(summary.failures) > top:
        lines.append(f"  … and {len(summary.failures) - top:,} more")
    return lines


def package_row(package: PackageSummary) -> tuple[str, ...]:
    """The cells of one package in a table, as text."""
    return (
        printable(package.name),
        f"{package.files:,}",
        f"{package.lines:,}",
        f"{package.functions:,}",
        f"{package.classes:,}",
        f"{package.branches:,}",
        percent(package.docstring_coverage),
        "–" if package.mean_complexity is None else f"{package.mean_complexity:.1f}",
    )


def percent(part: float | None) -> str:
    """A part of 1 as a percentage, or a dash if there is none.

    Examples
    --------
    >>> percent(0.256), percent(None)
    ('26 %', '–')
    """
    return "–" if part is None else f"{part:.0%}".replace("%", " %")


def _package(name: str, facts: Sequence[FileFacts], failed: int) -> PackageSummary:
    return PackageSummary(
        name=name,
        files=len(facts),
        failed=failed,
        nbytes=sum(each.nbytes for each in facts),
        code=sum(each.code for each in facts),
        docs=sum(each.docs for each in facts),
        comments=sum(each.comments for each in facts),
        blank=sum(each.blank for each in facts),
        functions=sum(each.functions for each in facts),
        classes=sum(each.classes for each in facts),
        branches=sum(each.branches for each in facts),
        complexity=sum(complexity for each in facts for _, complexity in each.shapes),
        documentable=sum(each.documentable for each in facts),
        documented=sum(each.documented for each in facts),
    )


def _most_complex(facts: Iterable[FileFacts]) -> tuple[ComplexFunction, ...]:
    found = [ComplexFunction(each.path, each.package, each.most_complex) for each in facts if each.most_complex]
    found.sort(key=lambda each: (-each.function.complexity, -each.function.lines, each.path))
    return tuple(found[:MOST_COMPLEX])


def _sum_pairs(pairs: Iterable[tuple[int, int]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for value, count in pairs:
        counts[value] += count
    return counts


def _sort_counts(counts: Mapping[int, int]) -> dict[str, int]:
    parts = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: quantile(counts, part) for name, part in parts.items()}


def _row_of_package(package: PackageSummary) -> dict[str, object]:
    return {
        **asdict(package),
        "lines": package.lines,
        "docstring_coverage": package.docstring_coverage,
        "mean_complexity": package.mean_complexity,
    }


def _align_rows(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as aligned lines, the first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]

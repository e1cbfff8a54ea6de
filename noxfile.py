"""The tests with other Pythons and other dependencies: ``nox``, or ``nox -s tests-3.13 -- tests/unit``.

Interpreters that are not there are skipped with a message. What follows ``--`` goes to pytest; without it, the tests
that start no worker processes run.
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
FAST = ("tests/unit", "tests/contracts/test_results.py", "src", "-m", "not cluster")
# Of its newest version only what the tests of those parts need: others ask for newer versions than our lowest.
TOOLS = (
    *("duckdb", "hatchling", "hypothesis", "import-linter", "kubernetes-validate", "moto[server]"),
    *("openapi-spec-validator", "opentelemetry-sdk", "pandas", "playwright", "polars", "pyright[nodejs]", "pytest"),
    *("pytest-timeout", "pytest-xdist", "sqlalchemy"),
)

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # a test of what is there is no reason to fetch a Python from somewhere
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "oldest"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The newest versions that this Python gets."""
    session.install("-e", ".[test]")
    _report(session)
    session.run("pytest", *(session.posargs or FAST))


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The lower bounds of pyproject.toml, exactly."""
    bounds = session.run("python", ".ci/versions.py", "lowest", silent=True)
    session.install("-e", ".", *bounds.split(), *TOOLS)
    _report(session)
    # Old versions use what has been deprecated since; that is not our subject here.
    # So is the fuzzer of the API, which wants newer versions than our lowest.
    session.run(
        "pytest",
        "-W",
        "ignore::DeprecationWarning",
        *(session.posargs or (*FAST, "-k", "not fuzzer and not document_does_not")),
    )


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist and the wheel, look into them, and use the wheel where nothing else is."""
    session.install("build")
    session.run("python", ".ci/check_distribution.py")


def _report(session: nox.Session) -> None:
    session.run("python", ".ci/versions.py", "show", success_codes=[0, 1])

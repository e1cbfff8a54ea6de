"""Versions of what this package and its tests need: those that there are, the lowest, and the newest that have passed.

    python .ci/versions.py show     # of this environment, beside newest.txt
    python .ci/versions.py lowest   # requirements with exactly the lower bounds of pyproject.toml
    python .ci/versions.py renew    # write those of this environment, in which all tests have passed, to newest.txt

``show`` ends with 1 if they are not those of newest.txt.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEWEST = ROOT / ".ci" / "newest.txt"
HEAD = "# The newest versions with which all tests have passed. bash .ci/run --renew writes them.\n"
OPTIONAL = ("arrow", "metrics", "otel", "postgres", "s3")  # extras whose lower bounds are tested, too


def main(verb: str) -> int:
    """Do what is asked for; the exit code."""
    if verb == "lowest":
        print(*lowest(), sep="\n")
    elif verb == "renew":
        text = "".join(f"{name}=={version}\n" for name, version in sorted(installed().items()))
        NEWEST.write_text(HEAD + text, encoding="utf-8")
    elif verb == "show":
        return show(installed(), newest())
    else:
        print(__doc__)
        return 2
    return 0


def lowest() -> list[str]:
    """Requirements of the package and of those extras, each with its lower bound as the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for each in OPTIONAL for line in extras[each])]
    return [line.replace(">=", "==") for line in wanted]


def installed() -> dict[str, str]:
    """Versions of this environment by name, without this package and what Python itself brings."""
    found = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in distributions()}
    return {name: version for name, version in found.items() if name not in ("anabranch", "pip", "setuptools")}


def newest() -> dict[str, str]:
    """Versions in newest.txt by name."""
    lines = NEWEST.read_text(encoding="utf-8").splitlines() if NEWEST.exists() else []
    return dict(line.split("==") for line in lines if "==" in line)


def show(here: dict[str, str], passed: dict[str, str]) -> int:
    """Print all versions, and what has passed before where that is another one."""
    changed = sorted(name for name in here.keys() | passed.keys() if passed.get(name) != here.get(name))
    print(f"Python {platform.python_version()}, {platform.platform()}")
    print(", ".join(f"{name} {version}" for name, version in sorted(here.items()) if name not in changed))
    for name in changed:
        print(f"{name} {here.get(name, 'is not here')} (newest.txt: {passed.get(name, 'none')})")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))

"""Known weaknesses: of this code by bandit, of what it depends on by pip-audit.

    python .ci/audit.py code           # what bandit finds beyond .ci/bandit.txt
    python .ci/audit.py code renew     # write what it finds to .ci/bandit.txt, once somebody has looked at it
    python .ci/audit.py dependencies   # advisories about what is installed here

Each ends with 1 if there is something. Where the database of advisories cannot be reached, that is said, and no
failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ROOT / ".ci" / "bandit.txt"
HEAD = "# What bandit finds that somebody has looked at: how often, which test, where. See audit.py.\n"


def main(words: list[str]) -> int:
    """Do what is asked for; the exit code."""
    if words == ["dependencies"]:
        return audit_dependencies()
    if words not in (["code"], ["code", "renew"]):
        print(__doc__)
        return 2
    found = json.loads(output_of("bandit", "--quiet", "--format", "json", "--recursive", "src"))["results"]
    found = [each for each in found if each["issue_severity"] != "LOW"]
    counts = Counter((each["test_id"], each["filename"]) for each in found)
    if "renew" in words:
        KNOWN.write_text(HEAD + "".join(f"{number} {test} {file}\n" for (test, file), number in sorted(counts.items())))
        return 0
    new = {place for place, number in counts.items() if number > known().get(place, 0)}
    for each in found:
        if (each["test_id"], each["filename"]) in new:
            print(f"{each['filename']}:{each['line_number']}: {each['test_id']} {each['issue_text']}")
    return int(bool(new))


def known() -> dict[tuple[str, str], int]:
    """How often each test of bandit finds something in a file, according to the list."""
    rows = [line.split() for line in KNOWN.read_text().splitlines() if not line.startswith("#")]
    return {(test, file): int(number) for number, test, file in rows}


def audit_dependencies() -> int:
    """Print the advisories about what is installed."""
    text = output_of("pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")
    packages: list[dict[str, Any]] = json.loads(text)["dependencies"] if text.startswith("{") else []
    audited = [each for each in packages if "vulns" in each]
    if not audited:
        print("skipped: the database of advisories cannot be reached")
        return 0
    print(f"{len(audited)} packages audited, {len(packages) - len(audited)} left out")
    hits = [(each, hit) for each in audited for hit in each["vulns"]]
    for each, hit in hits:
        fixed = ", ".join(hit["fix_versions"]) or "no version"
        print(f"{each['name']} {each['version']}: {hit['id']}, fixed in {fixed}")
    return int(bool(hits))


def output_of(module: str, *words: str) -> str:
    """What a program prints; both end with 1 if they find something."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

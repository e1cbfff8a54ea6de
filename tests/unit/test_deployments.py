"""What docs/deploy promises: manifests that Kubernetes takes, a unit that systemd takes, options that there are."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.needs import program

from anabranch.base.version import VERSION
from anabranch.cli import anabranch

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "anabranch.service", encoding="utf-8")
    return parser


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_is_one_that_kubernetes_takes(manifest: dict[str, Any]):
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_a_manifest_that_is_wrong_is_found():
    wrong = {**MANIFESTS[0], "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def pods() -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"]["template"] for each in MANIFESTS if "template" in each["spec"]}


def test_services_and_policies_select_pods_that_there_are():
    labels = {pod["metadata"]["labels"]["app"] for pod in pods().values()}
    for each in MANIFESTS:
        if each["kind"] == "Service":
            assert each["spec"]["selector"]["app"] in labels
    assert labels == {"anabranch", "dask-scheduler", "dask-worker", "postgres"}


def commands() -> list[list[str]]:
    (container,) = pods()["anabranch"]["spec"]["containers"]
    (image,) = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return [container["args"], unit()["Service"]["ExecStart"].removeprefix("/usr/bin/env ").split(), json.loads(image)]


@pytest.mark.parametrize("command", commands())
def test_the_commands_have_options_that_there_are(command: list[str]):
    assert command[:2] == ["anabranch", "serve"]
    serve = anabranch.commands["serve"]
    serve.make_context("serve", command[2:])


def test_runs_have_the_time_to_be_handed_over():
    spec = pods()["anabranch"]["spec"]
    args = spec["containers"][0]["args"]
    assert spec["terminationGracePeriodSeconds"] > float(args[args.index("--drain") + 1]) + 20
    service = unit()["Service"]
    command = service["ExecStart"].split()
    assert float(service["TimeoutStopSec"]) > float(command[command.index("--drain") + 1]) + 20
    assert service["KillMode"] == "mixed"


def test_no_secret_is_in_a_file():
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    for pod in pods().values():
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", ()):
                if any(word in variable["name"] for word in ("PASSWORD", "TOKEN")):
                    assert "secretKeyRef" in variable["valueFrom"]
    assert "kind: Secret" not in text


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path):
    text = (DEPLOY / "anabranch.service").read_text(encoding="utf-8")
    text = text.replace("User=anabranch", "User=root").replace("Group=anabranch", "Group=root")  # who there is
    file = tmp_path / "anabranch.service"
    file.write_text(text)
    verify = [program("systemd-analyze"), "verify", "--man=no", file]
    outcome = subprocess.run(verify, capture_output=True, text=True)
    said = [line for line in outcome.stderr.splitlines() if "anabranch.service" in line]
    assert said == []


def test_the_package_for_conda_is_the_one_for_pip():
    recipe = yaml.safe_load((DEPLOY / "recipe.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((DEPLOY.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"dask": "dask-core", "tzdata": "python-tzdata"}  # conda's `dask` brings pandas and more
    python, *needed = [each.split() for each in recipe["requirements"]["run"]]
    assert recipe["package"] == {"name": project["name"], "version": VERSION}
    assert "".join(python[1:]) == project["requires-python"]
    wanted = [re.split("(?=>)", each, maxsplit=1) for each in project["dependencies"]]
    assert needed == [[names.get(name, name), *bound] for name, *bound in wanted]
    scripts = [" = ".join(each) for each in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["license"] == project["license"]

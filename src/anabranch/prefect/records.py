"""Key-value pairs and artifacts of Prefect 1: files of this machine, and what ``context.artifact`` shows."""

from __future__ import annotations

import json
import os
from typing import Any
from uuid import uuid4

from anabranch import context
from anabranch.base.files import data_directory, write_whole
from anabranch.results.locations import slug


def _path(key: str) -> str:
    return os.path.join(data_directory(), "key-values", f"{slug(key)}.json")


def set_key_value(key: str, value: Any) -> str:
    """Keep a value that is JSON, for all flows of this user on this machine."""
    path = _path(key)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_whole(path, json.dumps({"key": key, "value": value}))
    return key


def get_key_value(key: str) -> Any:
    """The value that was kept.

    Raises
    ------
    ValueError
        There is none.
    """
    try:
        with open(_path(key), encoding="utf-8") as file:
            return json.load(file)["value"]
    except FileNotFoundError:
        raise ValueError(f"no value is kept under {key!r} on this machine") from None


def delete_key(key: str) -> bool:
    """Forget a value; whether there was one."""
    try:
        os.unlink(_path(key))
    except FileNotFoundError:
        return False
    return True


def list_keys() -> list[str]:
    """Keys of the values that are kept."""
    folder = os.path.dirname(_path("x"))
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = []
    for name in names:
        if name.endswith(".json") and not name.startswith("."):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found.append(str(json.load(file)["key"]))
    return sorted(found)


def create_markdown_artifact(markdown: str) -> str:
    """Show a text in Markdown on the run's page; an id, for it."""
    found = uuid4().hex
    update_markdown_artifact(found, markdown)
    return found


def create_link_artifact(link: str) -> str:
    """Show a link on the run's page; an id, for it."""
    found = uuid4().hex
    update_link_artifact(found, link)
    return found


def update_markdown_artifact(task_run_artifact_id: str, markdown: str) -> None:
    """Show another text in the place of one, while the attempt lasts that has shown it."""
    context.artifact.markdown(markdown, name=task_run_artifact_id)


def update_link_artifact(task_run_artifact_id: str, link: str) -> None:
    """Show another link in the place of one, while the attempt lasts that has shown it."""
    context.artifact.link(link, name=task_run_artifact_id)


def delete_artifact(task_run_artifact_id: str) -> None:
    """Nothing: what was shown stays on record."""


create_link, create_markdown = create_link_artifact, create_markdown_artifact
update_link, update_markdown = update_link_artifact, update_markdown_artifact

"""Tasks of Prefect 1 that ask GitHub for something, or tell it something, by its HTTP API."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from anabranch.monitoring.notifiers import TIMEOUT_S
from anabranch.prefect.definitions import Task, defaults_from_attrs

API = "https://api.github.com"


def _answer(method: str, repo: str | None, path: str, token: str | None, body: dict[str, Any] | None = None) -> Any:
    """What GitHub answers about a repository.

    Raises
    ------
    OSError
        It refuses, or cannot be reached.
    """
    if repo is None:
        raise ValueError("A GitHub repository must be provided.")
    url = f"{API}/repos/{quote(f'{repo}{path}')}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Accept": "application/vnd.github.v3+json"}, method=method)
    if token is not None:  # and nobody else gets it
        request.add_unredirected_header("Authorization", f"token {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except HTTPError as error:  # it has a socket, which cannot be stored
        with error:
            why = error.read(500).decode(errors="replace")
        raise OSError(f"GitHub answered {error.code} to {method} {url}: {why}") from None


class OpenGitHubIssue(Task):
    """Open an issue."""

    def __init__(
        self,
        repo: str | None = None,
        title: str | None = None,
        body: str | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.repo, self.title, self.body, self.labels = repo, title, body, labels or []
        super().__init__(**options)

    @defaults_from_attrs("repo", "title", "body", "labels")
    def run(
        self,
        repo: str | None = None,
        title: str | None = None,
        body: str | None = None,
        labels: Sequence[str] | None = None,
        token: str | None = None,
    ) -> None:
        """Open it."""
        _answer("POST", repo, "/issues", token, {"title": title, "body": body, "labels": list(labels or [])})


class CreateIssueComment(Task):
    """Comment on an issue."""

    def __init__(
        self, repo: str | None = None, issue_number: int | None = None, body: str | None = None, **options: Any
    ) -> None:
        self.repo, self.issue_number, self.body = repo, issue_number, body
        super().__init__(**options)

    @defaults_from_attrs("repo", "issue_number", "body")
    def run(
        self,
        repo: str | None = None,
        issue_number: int | None = None,
        body: str | None = None,
        token: str | None = None,
    ) -> None:
        """Comment on it."""
        if issue_number is None:
            raise ValueError("An issue number must be provided")
        _answer("POST", repo, f"/issues/{issue_number}/comments", token, {"body": body})


class CreateGitHubPR(Task):
    """Open a pull request."""

    def __init__(
        self,
        repo: str | None = None,
        title: str | None = None,
        body: str | None = None,
        head: str | None = None,
        base: str = "master",
        **options: Any,
    ) -> None:
        self.repo, self.title, self.body, self.head, self.base = repo, title, body, head, base
        super().__init__(**options)

    @defaults_from_attrs("repo", "title", "body", "head", "base")
    def run(
        self,
        repo: str | None = None,
        title: str | None = None,
        body: str | None = None,
        head: str | None = None,
        base: str | None = None,
        token: str | None = None,
    ) -> None:
        """Open it."""
        _answer("POST", repo, "/pulls", token, {"title": title, "body": body, "head": head, "base": base})


class GetRepoInfo(Task):
    """What GitHub knows of a repository, by key."""

    def __init__(self, repo: str | None = None, info_keys: Sequence[str] | None = None, **options: Any) -> None:
        self.repo, self.info_keys = repo, info_keys or []
        super().__init__(**options)

    @defaults_from_attrs("repo", "info_keys")
    def run(
        self, repo: str | None = None, info_keys: Sequence[str] | None = None, token: str | None = None
    ) -> dict[str, Any]:
        """The values of these keys."""
        known = _answer("GET", repo, "", token)
        return {key: known[key] for key in info_keys or ()}


class CreateBranch(Task):
    """Make a branch where another one is now; the value is what GitHub answers."""

    def __init__(
        self, repo: str | None = None, base: str = "master", branch_name: str | None = None, **options: Any
    ) -> None:
        self.repo, self.base, self.branch_name = repo, base, branch_name
        super().__init__(**options)

    @defaults_from_attrs("repo", "base", "branch_name")
    def run(
        self,
        repo: str | None = None,
        base: str | None = None,
        branch_name: str | None = None,
        token: str | None = None,
    ) -> Any:
        """The answer."""
        if branch_name is None:
            raise ValueError("A branch name must be provided.")
        there = _answer("GET", repo, f"/git/ref/heads/{base}", token)["object"]["sha"]
        return _answer("POST", repo, "/git/refs", token, {"ref": f"refs/heads/{branch_name}", "sha": there})

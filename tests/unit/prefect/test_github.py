"""Tasks that speak to GitHub, with a server of the test's own in its place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from anabranch.prefect import Flow, github, tasks
from anabranch.prefect.github import CreateBranch, CreateGitHubPR, CreateIssueComment, GetRepoInfo, OpenGitHubIssue


class Hub(BaseHTTPRequestHandler):
    """Notes what it is asked."""

    asked: list[tuple[str, str, Any, str | None]]

    def answer(self) -> None:
        length = int(self.headers["Content-Length"] or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, self.path, body, self.headers["Authorization"]))
        moved = self.path == "/repos/me/moved"
        self.send_response(404 if "lost" in self.path else 301 if moved else 200)
        if moved:
            self.send_header("Location", "/repos/me/tea")
        self.end_headers()
        self.wfile.write(json.dumps({"stars": 3, "forks": 1, "object": {"sha": "abc"}, "message": "no such"}).encode())

    do_GET = do_POST = answer  # their names there

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the server was asked."""
    found: list[Any] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Hub,), {"asked": found})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(github, "API", f"http://127.0.0.1:{server.server_port}")
        yield found
        server.shutdown()
        thread.join()


def test_they_are_found_under_their_old_paths():
    assert tasks.github.OpenGitHubIssue is tasks.github.issues.OpenGitHubIssue is OpenGitHubIssue


def test_issues_comments_and_pull_requests_are_made(asked: list[Any]):
    with Flow("f") as flow:
        OpenGitHubIssue(repo="me/tea", title="cold", labels=["bug"])(body="It is.", token="secret")
    assert flow.run().is_successful()
    CreateIssueComment("me/tea", 7).run(body="yes", token="secret")
    CreateGitHubPR(repo="me/tea", title="heat", head="hot").run()
    assert asked == [
        ("POST", "/repos/me/tea/issues", {"title": "cold", "body": "It is.", "labels": ["bug"]}, "token secret"),
        ("POST", "/repos/me/tea/issues/7/comments", {"body": "yes"}, "token secret"),
        ("POST", "/repos/me/tea/pulls", {"title": "heat", "body": None, "head": "hot", "base": "master"}, None),
    ]


def test_a_branch_begins_where_another_is(asked: list[Any]):
    assert CreateBranch("me/tea", branch_name="hot").run(base="main", token="t")["object"] == {"sha": "abc"}
    assert asked == [
        ("GET", "/repos/me/tea/git/ref/heads/main", None, "token t"),
        ("POST", "/repos/me/tea/git/refs", {"ref": "refs/heads/hot", "sha": "abc"}, "token t"),
    ]


def test_a_repository_is_told_of_and_its_name_is_only_a_name(asked: list[Any]):
    assert GetRepoInfo("me/tea", ["stars"]).run() == {"stars": 3}
    assert GetRepoInfo("me/tea?x=1 #2", ["forks"]).run() == {"forks": 1}
    assert asked[-1][1] == "/repos/me/tea%3Fx%3D1%20%232"


def test_the_token_is_not_sent_to_where_an_answer_leads(asked: list[Any]):
    assert GetRepoInfo("me/moved", ["stars"]).run(token="t") == {"stars": 3}
    assert [each[3] for each in asked] == ["token t", None]


def test_what_is_missing_or_refused_is_told(asked: list[Any]):
    with pytest.raises(OSError, match=r"GitHub answered 404 to GET http://.*/repos/me/lost: .*no such"):
        GetRepoInfo("me/lost").run(token="t")
    with pytest.raises(ValueError, match=r"A GitHub repository must be provided\."):
        GetRepoInfo().run()
    with pytest.raises(ValueError, match="An issue number must be provided"):
        CreateIssueComment("me/tea").run()
    with pytest.raises(ValueError, match=r"A branch name must be provided\."):
        CreateBranch("me/tea").run()

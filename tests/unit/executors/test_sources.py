"""Classes that travel as source text."""

from __future__ import annotations

import pickle
import subprocess
import sys

from anabranch.executors.deaths import HandBack
from anabranch.executors.scheduler_page import Page


def test_a_process_makes_the_class_of_a_text_once():
    for kind in (HandBack, Page):
        one, other = (pickle.loads(pickle.dumps(kind(token, "client"))) for token in ("one", "other"))
        assert type(one) is type(other)
        assert type(one) is not kind
        assert (one.token, other.token) == ("one", "other")


def test_nothing_of_ours_is_needed_where_a_text_arrives():
    load = (
        "import pickle, sys; each = pickle.loads(sys.stdin.buffer.read()); "
        "print(each.token, [name for name in sys.modules if name.partition('.')[0] == 'anabranch'])"
    )
    for kind in (HandBack, Page):
        done = subprocess.run(
            [sys.executable, "-c", load], input=pickle.dumps(kind("run", "client")), capture_output=True, check=True
        )
        assert done.stdout.decode().strip() == "run []"

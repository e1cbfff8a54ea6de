"""The frame of the service's plain pages: HTML without scripts, that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import html

from anabranch.monitoring.pages.looks import STYLE, safe

_CONTENT_TYPE = "text/html; charset=utf-8"
_STYLE = (
    STYLE.replace(":host", "body")
    + """
body { margin: 0; padding: 14px 18px; max-width: 860px; }
label { display: block; font-weight: 600; margin: 12px 0 3px; overflow-wrap: anywhere; }
label small { font-weight: 400; color: #5b626b; }
input, select, textarea { display: block; font: inherit; box-sizing: border-box; width: 100%; max-width: 560px;
  padding: 6px 8px; border: 1px solid #8a929c; border-radius: 6px; background: #fff; color: inherit; }
input[type=checkbox] { display: inline-block; width: auto; margin-right: 8px; }
textarea { min-height: 5em; font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
button { font: inherit; font-weight: 600; padding: 7px 18px; margin: 16px 14px 0 0; border-radius: 6px; border: 0;
  background: #005a9c; color: #fff; cursor: pointer; }
button:focus-visible, input:focus-visible, select:focus-visible, textarea:focus-visible {
  outline: 3px solid #005a9c; outline-offset: 2px; }
"""
)
_POLICY = (
    "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
HEADERS = {
    "Content-Type": _CONTENT_TYPE,
    # They load nothing, run nothing, and send forms to their own server.
    "Content-Security-Policy": _POLICY,
    # With "no-referrer" a browser says of a form's origin no more than "null".
    "Referrer-Policy": "same-origin",
}
"""What plain pages are sent with."""


def exact(text: str) -> str:
    """Text as the value of a field, which is sent back as it is: escaped, and neither shortened nor made printable."""
    return html.escape(text, quote=True)


def frame(title: str, body: str) -> str:
    """A page.

    Parameters
    ----------
    title
        Text, as users may have named it.
    body
        HTML, with all that is users' escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(title, 200)}</title><style>{_STYLE}</style></head>"
        f'<body><main><div class="head"><h1>{safe(title, 200)}</h1></div>{body}</main></body></html>'
    )


def sentence(text: str, *, title: str = "anabranch") -> str:
    """A page that says one thing."""
    return frame(title, f'<p class="notice">{safe(text, 2_000)}</p><p><a href="/">All runs</a></p>')


def login_form(after: str, problem: str = "") -> str:
    """The page that asks for a token.

    Parameters
    ----------
    after
        Where to go then.
    problem
        What was wrong with the one that was given.
    """
    told = f'<p class="notice" role="alert">{safe(problem)}</p>' if problem else ""
    return frame(
        "Log in",
        f'{told}<form method="post" action="/login"><input type="hidden" name="next" value="{exact(after)}">'
        '<label for="token">Token <small>the service\'s operators or viewers have it</small></label>'
        '<input id="token" name="token" type="password" required autofocus autocomplete="current-password">'
        "<button>Log in</button></form>",
    )

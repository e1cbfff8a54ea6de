"""Plain pages: HTML without scripts, that needs nothing but itself."""

from __future__ import annotations

import html

from anabranch.base.html import escaped
from anabranch.web.guard import LOGIN, TOKEN
from anabranch.web.headers import plain_page

_STYLE = """
body { margin: 0; padding: 14px 18px; max-width: 860px; font: 14px/1.45 'Helvetica Neue', Helvetica, Arial, sans-serif;
  color: #24292f; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; }
a { color: #005a9c; }
.none { color: #5b626b; padding: 6px 0; }
.notice { background: #fdf0cd; border-radius: 6px; padding: 6px 12px; margin: 6px 0; }
label { display: block; font-weight: 600; margin: 12px 0 3px; overflow-wrap: anywhere; }
label small { font-weight: 400; color: #5b626b; }
input, select, textarea { display: block; font: inherit; box-sizing: border-box; width: 100%; max-width: 560px;
  padding: 6px 8px; border: 1px solid #8a929c; border-radius: 6px; background: #fff; color: inherit; }
input[type=checkbox] { display: inline-block; width: auto; margin-right: 8px; }
textarea { min-height: 5em; font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
button { font: inherit; font-weight: 600; padding: 7px 18px; margin: 16px 14px 0 0; border-radius: 6px; border: 0;
  background: #005a9c; color: #fff; cursor: pointer; }
a:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible, textarea:focus-visible {
  outline: 3px solid #005a9c; outline-offset: 2px; }
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; }
  body { background: #14181d; color: #e3e7eb; }
  a { color: #79b8ff; }
  .none, label small { color: #a9b1ba; }
  .notice { background: #4a3b12; }
  input, select, textarea { background: #1f252c; }
}
"""
HEADERS = plain_page(_STYLE)
"""What plain pages are sent with, beside what every answer has."""


def exact(text: str) -> str:
    """Text as the value of a field, which is sent back as it is: escaped, and neither shortened nor made printable."""
    return html.escape(text, quote=True)


def build_page(title: str, body: str) -> str:
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
        f"<title>{escaped(title, 200)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escaped(title, 200)}</h1>{body}</main></body></html>"
    )


def build_notice(text: str, root: str, *, title: str = "anabranch") -> str:
    """A page that says one thing; `root` is the way to the first page."""
    link = f'<p><a href="{exact(root)}">All runs</a></p>'
    return build_page(title, f'<p class="notice">{escaped(text, 2_000)}</p>{link}')


def login_form(root: str, after: str, problem: str = "") -> str:
    """The page that asks for a token.

    Parameters
    ----------
    root
        The way to the first page.
    after
        Where to go then.
    problem
        What was wrong with the one that was given.
    """
    told = f'<p class="notice" role="alert">{escaped(problem)}</p>' if problem else ""
    return build_page(
        "Log in",
        f'{told}<form method="post" action="{exact(root + LOGIN[1:])}">'
        f'<input type="hidden" name="next" value="{exact(after)}">'
        '<label for="token">Token <small>from the settings of the service, or from the address that was printed'
        "</small></label>"
        f'<input id="token" name="{TOKEN}" type="password" required autofocus autocomplete="current-password">'
        "<button>Log in</button></form>",
    )


def logout_form() -> str:
    """The page that asks whether to log out."""
    button = '<button autofocus>Log out</button> <a href="./">back</a>'
    return build_page("Log out", f'<form method="post">{button}</form>')

"""What every answer tells a browser that it must not do, and what a page may do beside that."""

from __future__ import annotations

import base64
import hashlib

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "anabranch",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer, whatever it is."""
HTML = "text/html; charset=utf-8"
JSON = "application/json"


def plain_page(style: str) -> dict[str, str]:
    """Headers of a page that loads and runs nothing, has one style sheet, and sends forms to its own server."""
    known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{known}'; base-uri 'none'; form-action 'self'"
    return {
        "Content-Type": HTML,
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
        "Referrer-Policy": "same-origin",  # with "no-referrer" a browser says of a form's origin no more than "null"
    }


def script_page(nonce: str) -> dict[str, str]:
    """Headers of a page with scripts of this server, known by a nonce, which talk to it alone.

    Bokeh compiles nothing at run time as long as no page has JavaScript of its own; its styles are inline, though.
    """
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return {"Content-Type": HTML, "Content-Security-Policy": policy}

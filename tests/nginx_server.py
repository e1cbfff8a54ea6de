"""The real nginx before a server of ours, with the configuration of the documentation."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.documents.blocks import blocks
from tests.needs import program

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "behind-a-proxy.md"
_AROUND = """
daemon off;
worker_processes 1;
user {user} {group};
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


@contextmanager
def nginx(folder: Path, port: int, *, certificate: tuple[str, str] | None, **changes: str) -> Iterator[int]:
    """The port of an nginx that passes requests on to a port; without a certificate it speaks plain HTTP.

    It inherits a socket that listens already, so that nobody has to wait until it does.
    """
    command = program("nginx")
    (servers,) = [block.code for block in blocks(PAGE) if block.file == "flows.conf"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        found: int = listening.getsockname()[1]
        cert, key = certificate or ("", "")
        replaced = {
            "listen 443 ssl": f"listen 127.0.0.1:{found}{' ssl' if certificate else ''}",
            "http://127.0.0.1:8780": f"http://127.0.0.1:{port}",
            "ssl_certificate     /etc/nginx/flows.pem;": f"ssl_certificate {cert};" if certificate else "",
            "ssl_certificate_key /etc/nginx/flows.key;": f"ssl_certificate_key {key};" if certificate else "",
            **changes,
        }
        for text, other in replaced.items():
            assert text in servers
            servers = servers.replace(text, other)
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        text = _AROUND.format(folder=folder, servers=servers, user=user, group=group)
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            [command, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"],
            env={"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
        )
        try:
            yield found
        finally:
            process.terminate()
            process.wait(timeout=20)

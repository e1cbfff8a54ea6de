"""How the documentation is built: ``python -m sphinx -W docs build/docs``; it needs no network."""

from __future__ import annotations

from anabranch.base.version import VERSION

project = "anabranch"
author = "the anabranch developers"
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are numpydoc, and types stand in signatures.
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# As docstrings write it, `name` is code, whatever it names.
default_role = "code"

html_theme = "furo"
html_title = f"anabranch {VERSION}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False

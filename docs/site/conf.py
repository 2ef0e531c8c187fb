"""Sphinx's settings for the documentation site (make docs). tools/publish collects its sources."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

HERE = pathlib.Path(__file__).parent

project = "unikernels.xen"
copyright = "the unikernels.xen authors"
html_title = "unikernels.xen"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["README.md"]
# Titles are anchors, with the same names as in the repository's own view.
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "misc.highlighting_failure", "toc.empty_glob"]
pygments_style = "friendly"
pygments_dark_style = "monokai"
highlight_language = "text"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# antsibull-docs' pages of plugins and roles: (name, kind).
PAGES = {tuple(path.stem.rsplit("_", 1)) for path in (HERE / "collections").glob("*_*.rst")}
PLAYBOOKS = {path.stem for path in (HERE / "playbooks").glob("*.yml")}
# Labels of Ansible's own documentation that antsibull-docs refers to.
ANSIBLE = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "callback_plugins": "plugins/callback.html",
    "common_return_values": "reference_appendices/common_return_values.html",
    "inventory_plugins": "plugins/inventory.html",
    "playbooks_filters": "playbook_guide/playbooks_filters.html",
}
KINDS = ("module", "role", "inventory", "lookup", "callback", "filter")


def page_of(literal: nodes.literal, docname: str) -> tuple[str, str] | None:
    """Return the page that a name in a guide refers to: `unikernels.xen.NAME`; in the reference's tables also `NAME`."""
    text = literal.astext()
    if docname != "docs/reference":
        name = text[len("unikernels.xen.") :] if text.startswith("unikernels.xen.") else ""
        pages = [(name, kind) for kind in KINDS if (name, kind) in PAGES]
        return pages[0] if len(pages) == 1 and name not in PLAYBOOKS else None
    section = literal.parent
    while section is not None and not isinstance(section, nodes.section):
        section = section.parent
    title = section[0].astext() if section is not None else ""
    kind = "module" if title == "Modules" else literal.parent.astext().split(" ")[0] if title == "Other plugins" else ""
    return (text, kind) if (text, kind) in PAGES else None


class LinkNames(SphinxTransform):  # type: ignore[misc]
    """Turn names of modules, plugins and roles in the guides into links."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        docname = self.env.docname
        if not docname.startswith(("docs/", "index")):
            return
        for literal in list(self.document.findall(nodes.literal)):
            page = page_of(literal, docname)
            if page and not isinstance(literal.parent, nodes.reference):
                label = f"ansible_collections.unikernels.xen.{page[0]}_{page[1]}"
                link = pending_xref(
                    "", refdomain="std", reftype="ref", reftarget=label, refexplicit=True, refwarn=True, refdoc=docname
                )
                literal.replace_self(link)
                link.append(literal)


def elsewhere(app: Sphinx, env: Any, node: pending_xref, text: nodes.Node) -> nodes.reference | None:
    page = ANSIBLE.get(node["reftarget"])
    return nodes.reference("", "", text, refuri=f"https://docs.ansible.com/ansible/latest/{page}") if page else None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", elsewhere)
    app.add_transform(LinkNames)

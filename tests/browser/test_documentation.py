"""The documentation site as `make docs` builds it, in a real browser: its first page, and a page that antsibull-docs generates.

Screenshots are left in BROWSER_SHOTS, or in pytest's folder: `make screenshots`.
"""

import os
import pathlib
import re

import pytest

from .test_status_page import CHROMIUM, PHONE, WIDE, chromium

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE = pathlib.Path(os.environ.get("DOCS_SITE", ROOT / "build/docs"))
# Page -> what its text must have.
PAGES = {
    "index.html": ("Start with", "first hour", "Reference"),
    "collections/xen_domain_module.html": ("memory", "interfaces", "Examples", "Return Values"),
    "collections/web_role.html": ("web_interfaces", "Entry point"),
}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: tests/run browser installs it"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="needs the site: make docs"),
]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_readable(tmp_path, page, size):
    url = (SITE / page).as_uri()
    text = chromium(tmp_path, "--dump-dom", url, size=size)
    body = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", text.partition("<body")[2], flags=re.DOTALL)
    assert [word for word in PAGES[page] if word not in body] == []
    # antsibull-docs leaves these where documentation could not be read.
    assert not re.search(r"(?i)problems? (?:were )?found|was not found|traceback|undefined role", body)
    folder = pathlib.Path(os.environ.get("BROWSER_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    shot = folder / f"docs-{pathlib.Path(page).stem}-{size[0]}.png"
    chromium(tmp_path, f"--screenshot={shot}", url, size=size)
    assert shot.stat().st_size > 20_000, "an empty page"


def test_the_picture_is_shown_on_the_first_page(tmp_path):
    """Loaded, and not only linked: a copy beside it states its width in its title."""
    text = (SITE / "index.html").read_text(encoding="utf-8")
    probe = SITE / "picture-probe.html"
    script = "<script>onload = () => { document.title = document.querySelector('img[src*=run]').naturalWidth }</script></body>"
    probe.write_text(text.replace("</body>", script), encoding="utf-8")
    try:
        shown = chromium(tmp_path, "--dump-dom", probe.as_uri())
    finally:
        probe.unlink()
    assert int(re.search(r"<title>(.*?)</title>", shown, re.DOTALL)[1] or 0) > 500

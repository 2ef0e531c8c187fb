"""The page of status.yml in a real browser (Debian's chromium): what it shows, sorts, filters, and never runs.

Screenshots are left in BROWSER_SHOTS, or in pytest's folder; inspect them after a change of the page's style.
"""

import html
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.status import page

from .pages import HOSTILE, fleet_of, hostile_fleet

CHROMIUM = shutil.which("chromium")
AT = "2026-11-27 20:00:00 UTC"
WIDE, PHONE = (1280, 900), (390, 844)
# Runs after the page's own script and leaves its findings in the title.
PROBE = """<script>
const visible = () => rows.length && [...list.children].filter(row => !row.hidden).map(row => row.dataset.name);
const filter = (words, is) => { text.value = words; which.value = is || ''; show(); return visible(); };
const sorted = key => { order.value = key; sort(); return visible(); };
document.title = JSON.stringify((() => { PROBE })());
</script></body>"""
FRAME = """<!DOCTYPE html><title>frame</title>
<iframe style="border:0" width="{width}" height="{height}" srcdoc="{text}"
 onload="document.title = this.contentDocument.title"></iframe>"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: tests/run browser installs it")


def chromium(folder, *options, size=WIDE):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
        f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def probe(folder, hosts, expression, size=WIDE):
    """Return what JavaScript ``expression`` (a function's body) finds on the page."""
    path = folder / "page.html"
    text = page(hosts, AT).replace("</body>", PROBE.replace("PROBE", expression))
    # Chromium's windows are at least 500 pixels wide, but a frame can be narrower, and the page measures that.
    path.write_text(text if size == WIDE else FRAME.format(width=size[0], height=size[1], text=html.escape(text)))
    title = re.search(r"<title>(.*?)</title>", chromium(folder, "--dump-dom", path.as_uri(), size=size), re.DOTALL)[1]
    return json.loads(html.unescape(title))


@pytest.mark.parametrize("count", [5, 1000])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_is_readable_at_this_size(tmp_path, count, size):
    hosts = fleet_of(count)
    shots = pathlib.Path(os.environ.get("BROWSER_SHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    path, shot = tmp_path / "page.html", shots / f"{count}-{size[0]}.png"
    path.write_text(page(hosts, AT))
    chromium(tmp_path, f"--screenshot={shot}", path.as_uri(), size=size)
    head = shot.read_bytes()[:24]
    assert struct.unpack(">II", head[16:24]) == size and shot.stat().st_size > 20_000
    seen = probe(
        tmp_path, hosts,
        "return {width: innerWidth, needed: document.documentElement.scrollWidth, hosts: visible().length,"
        " small: [...document.querySelectorAll('summary *, td, p, li')].filter(one => one.offsetWidth"
        " && parseFloat(getComputedStyle(one).fontSize) < 13).length}",
        size,
    )  # fmt: skip
    assert seen["width"] == size[0] and seen["needed"] <= size[0], "nobody scrolls sideways"
    assert seen["hosts"] == count and seen["small"] == 0


def test_what_needs_a_look_comes_first_and_says_so_in_words(tmp_path):
    found = probe(
        tmp_path, fleet_of(300),
        "return [...list.children].slice(0, 8).map(row => [row.dataset.name, row.open,"
        " row.querySelector('.mark').textContent])",
    )  # fmt: skip
    assert found[0] == ["xen-lost.example.net", True, "✕ not reached"]
    assert [entry[2] for entry in found[1:7]] == ["▲ look at it"] * 6
    assert found[7] == ["xen-0001.example.net", False, "✓ as declared"]


def test_it_sorts_and_filters(tmp_path):
    found = probe(
        tmp_path, fleet_of(120),
        "return {unhealthy: filter('503'), both: filter('WWW a5f4 xen-0102'), standins: filter('stand-in').length,"
        " lost: filter('', 'not reached'), none: filter('nosuch'), count: count.textContent, all: filter('').length,"
        " name: sorted('name').slice(0, 2), free: sorted('free').slice(0, 2), xen: sorted('xen')[1]}",
    )  # fmt: skip
    assert found["unhealthy"] == ["xen-0002.example.net", "xen-0102.example.net"]
    assert found["both"] == ["xen-0102.example.net"]
    assert found["lost"] == ["xen-lost.example.net"] and found["none"] == [] and found["count"] == "0 of 120 hosts"
    assert found["standins"] == 60 and found["all"] == 120
    assert found["name"] == ["xen-0001.example.net", "xen-0002.example.net"]
    assert found["free"] == ["xen-lost.example.net", "xen-0001.example.net"]


def test_a_state_is_more_than_a_colour(tmp_path):
    """Without any colour the border, the mark and the words differ."""
    found = probe(
        tmp_path, fleet_of(5),
        "return Object.fromEntries([...list.children].map(row => [row.querySelector('.mark').textContent,"
        " getComputedStyle(row).borderLeftStyle]))",
    )  # fmt: skip
    assert found == {"✕ not reached": "double", "▲ look at it": "dashed", "✓ as declared": "solid"}


def test_nothing_that_a_host_answers_is_run_or_fetched(tmp_path):
    """Each text of a hostile host remains text; the page has the same elements as for a benign fleet."""
    elements = "[...new Set([...document.querySelectorAll('body *')].map(one => one.tagName))].sort()"
    found = probe(
        tmp_path, hostile_fleet(),
        f"return {{elements: {elements}, title: document.title, scripts: document.scripts.length,"
        " handlers: [...document.querySelectorAll('*')].filter(one => [...one.attributes].some(attribute =>"
        " attribute.name.startsWith('on'))).length, outside: performance.getEntriesByType('resource').length,"
        " shown: list.textContent}",
    )  # fmt: skip
    assert found["title"] == "Fleet" and found["scripts"] == 2, "the page's own, and the one that looks"
    assert found["handlers"] == 0 and found["outside"] == 0
    assert not {"IMG", "SVG", "svg", "IFRAME", "BASE"} & set(found["elements"])
    for text in HOSTILE[:5]:
        assert text[:60] in found["shown"]
    assert "\u202e" not in found["shown"] and "\x07" not in found["shown"]

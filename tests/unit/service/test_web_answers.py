"""Headers of paths and folders of names: what they become, and what is refused."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line
from ansible_collections.unikernels.xen.plugins.module_utils.service import web
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]


def declared(**values):
    return web.declare({"web_interfaces": INTERFACES, "web_content": "/srv/www", **values}, "/src")


def test_the_header_of_a_deeper_path_comes_last():
    headers = {"/assets/": {"Cache-Control": "max-age=31536000, immutable"}, "/": {"cache-control": "no-cache", "X-A": 1}}
    service = declared(web_headers=headers, web_hosts={"Blog.example.org.": "blog"})
    assert service.problems == ()
    assert service.unikernel["arguments"]["header"] == [
        "/=cache-control: no-cache",
        "/=x-a: 1",
        "/assets/=cache-control: max-age=31536000, immutable",
    ]
    assert service.unikernel["arguments"]["host"] == ["blog.example.org=blog"]
    assert {"header", "host"}.isdisjoint(declared().unikernel["arguments"])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"web_headers": ["x"]}, "web_headers: must be a mapping of a path to its headers, as in"),
        ({"web_headers": {"assets": {"a": "b"}}}, "web_headers: 'assets' is not a path: it begins with /"),
        ({"web_headers": {"/a=b": {"a": "b"}}}, "web_headers: '/a=b' is not a path"),
        ({"web_headers": {1: {"a": "b"}}}, "web_headers: 1 is not a path"),
        ({"web_headers": {"/": "no-cache"}}, "web_headers: /: must be a mapping of headers to values"),
        ({"web_headers": {"/": {"a b": "c"}}}, "web_headers: /: 'a b' is not the name of a header"),
        ({"web_headers": {"/": {"a:": "c"}}}, "web_headers: /: 'a:' is not the name of a header"),
        ({"web_headers": {"/": {"Content-Length": "1"}}}, "web_headers: /: Content-Length: is set by the server"),
        (
            {"web_headers": {"/": {"Strict-Transport-Security": "x"}}},
            "web_headers: /: Strict-Transport-Security: is set with hsts",
        ),
        ({"web_headers": {"/": {"a": "x", "A": "y"}}}, "web_headers: /: A: is listed twice"),
        ({"web_headers": {"/": {"a": "x\ny"}}}, "web_headers: /: a: must be text of at most 1000 ASCII characters"),
        ({"web_headers": {"/": {"a": "$uri"}}}, "web_headers: /: a: must be text"),
        ({"web_headers": {"/": {"a": ""}}}, "web_headers: /: a: must be text"),
        ({"web_headers": {"/": {"a": None}}}, "web_headers: /: a: must be text"),
        ({"web_headers": {"/": {"a": True}}}, "web_headers: /: a: must be text"),
        ({"web_hosts": ["blog"]}, "web_hosts: must be a mapping of a name to a folder of web_content, as in"),
        ({"web_hosts": {"a b": "x"}}, "web_hosts: 'a b' is not a name that browsers ask for"),
        ({"web_hosts": {"": "x"}}, "web_hosts: '' is not a name"),
        ({"web_hosts": {"*.example.org": "x"}}, "web_hosts: '*.example.org' is not a name"),
        ({"web_hosts": {"a.org": "x", "A.org": "y"}}, "web_hosts: 'A.org' is listed twice"),
        ({"web_hosts": {"a.org": "../x"}}, "web_hosts: a.org: '../x' is not a folder of web_content"),
        ({"web_hosts": {"a.org": "/x"}}, "web_hosts: a.org: '/x' is not a folder"),
        ({"web_hosts": {"a.org": None}}, "web_hosts: a.org: None is not a folder"),
    ],
)
def test_a_mistake_is_one_line(values, line):
    (problem,) = declared(**values).problems
    assert problem.startswith(line) and "\n" not in problem


@given(st.text(min_size=1, max_size=60))
def test_a_value_that_is_taken_arrives_as_it_is(value):
    service = declared(web_headers={"/": {"x-a": value}})
    if service.problems:
        return
    (word,) = service.unikernel["arguments"]["header"]
    assert boot_line.split(boot_line.join([f"--header={word}"])) == [f"--header=/=x-a: {value}"]

"""`unikernel_images`: any value is accepted, or refused in one line with the image, the key, and what would be right."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.origins import KEYS, problems_of
from hypothesis import given
from hypothesis import strategies as st

TOKEN = "ghp_0123456789abcdef"  # noqa: S105
GIT = {"source": "https://git.example.net/unipi.git", "version": "0123456789abcdef0123456789abcdef01234567"}


@pytest.mark.parametrize(
    "image",
    [
        {"file": "/a.xen"},
        {"file": "/a.xen", "sha256": "AB" * 32, "version": None, "update_lock": False, "configure": []},
        {"url": "https://example.net/a.xen", "sha256": "ab" * 32},
        {**GIT, "subfolder": "x", "configure": ["--tls=true"], "overlay": {"a": "/srv/www"}, "lock": "/l", "update_lock": True},
        {"standin": "web", "content": "/srv/www"},
        {"source": "/srv/unikernels/hello", "update_lock": True},
        {**GIT, "source": "git@git.example.net:unipi.git", "version": "main"},
        {**GIT, "source": f"https://{TOKEN}@git.example.net/unipi.git"},
        {**GIT, "source": "file:///srv/git/unipi.git"},
    ],
)  # fmt: skip
def test_what_is_right(image):
    assert problems_of("web", image) == []


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ({**GIT, "version": 1.1}, "version: is 1.1, must be text: put it in quotes, for YAML reads it as a number"),
        ({**GIT, "version": 1234}, "version: is 1234, must be text: put it in quotes, for YAML reads it as a number"),
        ({**GIT, "version": ["v1"]}, "version: is ['v1'], must be text of one line"),
        ({**GIT, "lock": True}, "lock: is True, must be text of one line"),
        ({**GIT, "lock": {"a": 1}}, "lock: is {'a': 1}, must be text of one line"),
        ({**GIT, "configure": [None]}, "configure: must be a list of words, as in [--no-dhcp]"),
        ({**GIT, "configure": ["--a\n--b"]}, "configure: must be a list of words, as in [--no-dhcp]"),
        ({**GIT, "configure": ["tls"]}, "configure: 'tls': expected an option as in --name=value"),
        ({**GIT, "configure": ["--target=hvt"]},
         "configure: '--target=hvt': the target is always xen, because nothing else boots under Xen"),
        ({**GIT, "overlay": {"a": None}}, "overlay: must be a mapping of a path in the sources to a folder"),
        ({**GIT, "overlay": {None: "/a"}}, "overlay: must be a mapping of a path in the sources to a folder"),
        ({**GIT, "update_lock": "maybe"}, "update_lock: is 'maybe', must be true or false"),
        ({"file": "/a.xen", "version": "1"}, "version: is for source, and this image has file"),
        ({"file": "/a.xen", "content": "/w"}, "content: is for standin, and this image has file"),
        ({**GIT, "sha256": "ab" * 32}, "sha256: is for file or url, and this image has source"),
        ({"file": "/a.xen", "sha256": "ab"}, "sha256: must be 64 hexadecimal digits"),
        ({"file": "/a.xen", "sha256": 12}, "sha256: is 12, must be text: put it in quotes, for YAML reads it as a number"),
        ({"file": "/a\x1b[2J"}, r"file: is '/a\x1b[2J', must be text of one line"),
        ({"standin": ["web"]}, "standin: is ['web'], must be text of one line"),
        ({"standin": "mail"}, "standin: is 'mail', must be one of web, dns, vpn"),
        ({**GIT, "source": f"http://{TOKEN}@git.example.net/x.git"},
         "source: http:// can be read and altered by anyone on the network path; use an https:// or ssh:// address"),
        ({**GIT, "source": "git://git.example.net/x.git"},
         "source: git:// can be read and altered by anyone on the network path; use an https:// or ssh:// address"),
        ({**GIT, "source": f"me:{TOKEN}@git.example.net:x.git"},
         "source: an address must be as in https://host/path, ssh://host/path or git@host:path"),
        ({**GIT, "source": f"https:/{TOKEN}@git.example.net/x.git"},
         "source: an address must be as in https://host/path, ssh://host/path or git@host:path"),
        ({**GIT, "source": "ext::sh"},
         "source: an address that begins with 'ext' is not supported; use an https:// or ssh:// address"),
        ({"source": GIT["source"]}, "version: is missing; a git repository needs the revision to build, best a full commit"),
        ({**GIT, "version": "--upload-pack=x"}, "version: '--upload-pack=x' is not a revision of git"),
        ({**GIT, "update_lock": "yes"},
         "update_lock: a git repository has no place for a lock file; give lock: the file that it is kept in"),
        ({"source": "/srv/hello", "version": "main"}, "version: is for a git repository, and source is a folder"),
        ({"source": "/srv/hello", "subfolder": "x"}, "subfolder: is for a git repository, and source is a folder"),
        ({"url": "ftp://example.net/a.xen", "sha256": "ab" * 32}, "url: must begin with https:// or http://"),
        ({"url": "/srv/a.xen", "sha256": "ab" * 32}, "url: must begin with https:// or http://"),
        ({"url": "https://example.net/a.xen"}, "a url needs the sha256 of its file"),
        ({"file": "/a", "url": "/b"}, "must have exactly one of source, file, url, standin"),
        ({"file": ""}, "must have exactly one of source, file, url, standin"),
        ({}, "must have exactly one of source, file, url, standin"),
        ("/a.xen", "must be a mapping, as in {file: /path/to/it.xen}"),
        (None, "must be a mapping, as in {file: /path/to/it.xen}"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(image, line):
    assert problems_of("web", image) == [f"image web: {line}"]


@pytest.mark.parametrize("name", [None, 1, "", "a/b", "-a", "a" * 65, "a\n", ("a",)])
def test_names(name):
    (line,) = problems_of(name, {"file": "/a"})
    assert line.startswith("unikernel_images: ") and "a name must be 1..64 letters" in line and "\n" not in line


def test_keys_of_any_type():
    (line,) = problems_of("web", {None: 1, "imgae": 2, 3: 4})
    assert line.startswith("image web: unknown key 'imgae', 3, None; known are source, version, ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda more: st.lists(more, max_size=2) | st.dictionaries(st.none() | st.text(max_size=4), more, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.none() | st.text(max_size=3), VALUES, max_size=4) | VALUES)
def test_anything_is_right_or_refused_in_lines(image):
    lines = problems_of("web", image)
    assert all(line.startswith("image web: ") and len(line.splitlines()) == 1 for line in lines)

"""What a stand-in makes of the web server's boot arguments: nginx's configuration, and the files of a disk."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib
import subprocess
import tarfile

import pytest

SCRIPT = (pathlib.Path(__file__).parents[3] / "roles/unikernel_images/files/standin/service-web").read_text()
# What init defines.
INIT = 'refuse() { echo "$1"; exit 64; }\nfinish() { exit "$1"; }\nwait_for_block() { :; }\nlevel=\nlog=/dev/hvc0\n'
TAKE = """while [ "$#" -gt 0 ]; do
  case " $OPTIONS " in *" $1 "*) set_option "$1" "$2" ;; *) refuse "unknown $1" ;; esac
  shift 2
done
"""


def run(tmp_path, *arguments, do="prepare"):
    """Run the script as init would, with all that it writes below ``tmp_path``."""
    text = SCRIPT
    for path in ("/run/", "/var/l", "/content", "/dev/xvda"):
        text = text.replace(path, f"{tmp_path}{path}")
    (tmp_path / "run").mkdir(exist_ok=True)
    command = ["busybox", "sh", "-c", f"{INIT}{text}\n{TAKE}{do}", "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def configuration(tmp_path, *arguments):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return (tmp_path / "run/nginx.conf").read_text().replace(str(tmp_path), "")


def test_each_name_has_its_folder_and_the_first_server_gets_the_others(tmp_path):
    text = configuration(tmp_path, "--host", "blog.example.org=blog", "--host", "x.example.org=a/b")
    servers = [line.split() for line in text.splitlines() if line.strip().startswith(("server_name ", "root "))]
    assert servers == [["server_name", "_;"], ["root", "/content;"], ["server_name", "blog.example.org;"],
                       ["root", "/content/blog;"], ["server_name", "x.example.org;"], ["root", "/content/a/b;"]]  # fmt: skip


def test_a_header_is_a_map_in_which_the_last_rule_stands_first(tmp_path):
    text = configuration(
        tmp_path, "--header", "/=cache-control: no-cache", "--header", "/a.b/=cache-control: max-age=60, immutable",
        "--header", "/=content-security-policy: default-src 'self'; img-src https:",
    )  # fmt: skip
    assert (
        '  map $uri $header_1 {\n    default "";\n    "~^/a\\.b/" "max-age=60, immutable";\n    "~^/" "no-cache";\n  }\n'
        '  map $uri $header_2 {\n    default "";\n    "~^/" "default-src \'self\'; img-src https:";\n  }\n'
    ) in text
    assert "    add_header cache-control $header_1;\n    add_header content-security-policy $header_2;\n" in text


def test_https_has_the_same_servers_and_http_sends_there(tmp_path):
    pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/xvda").write_text(f"{pem}{pem}" + "\0" * 512)
    text = configuration(tmp_path, "--https-port", "443", "--https-redirect", "true", "--host", "b.example.org=b", "--hsts", "60")
    assert text.count("listen 443 ssl;") == 2 and text.count("listen 80;") == 1
    assert text.count("add_header Strict-Transport-Security max-age=60 always;") == 2
    assert "return 301 https://$host$request_uri;" in text
    assert (tmp_path / "run/tls.pem").read_text() == pem


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--header", "cache-control: x"), "option '--header': invalid value 'cache-control: x', expected PATH=NAME: VALUE"),
        (("--host", "blog"), "option '--host': invalid value 'blog', expected NAME=FOLDER"),
        (("--content-disk", "yes"), "option '--content-disk': invalid value 'yes', expected true or false"),
    ],
)
def test_what_the_unikernel_refuses_is_refused(tmp_path, arguments, words):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (64, f"{words}\n")


def test_a_disk_is_unpacked(tmp_path):
    (tmp_path / "index.html").write_text("hello")
    with tarfile.open(tmp_path / "disk", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "index.html", "docs/index.html")
    with open(tmp_path / "disk", "ab") as disk:
        disk.write(bytes(4096))
    assert run(tmp_path, do=f"unpack {tmp_path}/disk {tmp_path}/there").returncode == 0
    assert (tmp_path / "there/docs/index.html").read_text() == "hello"
    (tmp_path / "disk").write_bytes(b"\x01" * 4096)
    done = run(tmp_path, do=f"unpack {tmp_path}/disk {tmp_path}/there")
    assert done.returncode == 1 and "has no tar archive, or it does not fit into memory" in done.stdout

"""Runs in Dom0 with Debian's own Python. Repackages installed packages as newer ones, in a file repository that apt trusts.

    rebuilt.py FOLDER SUFFIX PACKAGE[:SCRIPT]...

Each PACKAGE is built from its installed files, with SUFFIX after its version. SCRIPT (preinst, postinst) is made to fail.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import email.utils
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

FIELDS = (
    "Package",
    "Version",
    "Architecture",
    "Maintainer",
    "Depends",
    "Pre-Depends",
    "Provides",
    "Multi-Arch",
    "Section",
    "Priority",
)
RELEASE = "Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\nCodename: lab-security\nArchitectures: amd64\n"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(folder, package, suffix, failing):
    with tempfile.TemporaryDirectory(dir=folder) as tree:
        for path in output("dpkg", "-L", package).splitlines():
            if not os.path.isdir(path):
                os.makedirs(tree + os.path.dirname(path), exist_ok=True)
                shutil.copy2(path, tree + path, follow_symlinks=False)
        values = {field: output("dpkg-query", "-W", "-f", "${%s}" % field, package) for field in FIELDS}
        values["Version"] += suffix
        control = "".join("%s: %s\n" % (field, value) for field, value in values.items() if value) + "Description: rebuilt\n"
        os.mkdir(tree + "/DEBIAN")
        os.chmod(tree, 0o755)  # noqa: S103
        with open(tree + "/DEBIAN/control", "w") as file:
            file.write(control)
        for script in ("preinst", "postinst", "prerm", "postrm", "conffiles"):
            installed = "/var/lib/dpkg/info/%s.%s" % (package, script)
            if os.path.exists(installed):
                shutil.copy2(installed, tree + "/DEBIAN/" + script)
        if failing:
            with open(tree + "/DEBIAN/" + failing, "w") as file:
                file.write("#!/bin/sh\nexit 1\n")
            os.chmod(tree + "/DEBIAN/" + failing, 0o755)  # noqa: S103
        path = "%s/%s.deb" % (folder, package)
        output("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, path)
    with open(path, "rb") as file:
        data = file.read()
    return control + "Filename: ./%s.deb\nSize: %d\nSHA256: %s\n" % (package, len(data), hashlib.sha256(data).hexdigest())


def main(folder, suffix, *packages):
    os.makedirs(folder, exist_ok=True)
    text = "\n".join(build(folder, package.partition(":")[0], suffix, package.partition(":")[2]) for package in packages)
    with open(folder + "/Packages", "w") as file:
        file.write(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with open(folder + "/Release", "w") as file:
        date = "Date: %s\n" % email.utils.formatdate(usegmt=True)
        file.write(RELEASE + date + "SHA256:\n %s %d Packages\n" % (digest, len(text)))
    with open("/etc/apt/sources.list.d/lab-updates.list", "w") as file:
        file.write("deb [trusted=yes] file:%s ./\n" % folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

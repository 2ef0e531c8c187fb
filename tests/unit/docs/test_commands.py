"""Every command in the pages can be typed: programs take these options, and what it names is in the collection.

Each line of a code block, and each command between backticks in a sentence. Nothing is run here but shells that read; what the
commands do is tested on the lab.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import functools
import json
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml
from ansible.cli.adhoc import AdHocCLI
from ansible.cli.console import ConsoleCLI
from ansible.cli.doc import DocCLI
from ansible.cli.galaxy import GalaxyCLI
from ansible.cli.inventory import InventoryCLI
from ansible.cli.playbook import PlaybookCLI
from ansible.cli.vault import VaultCLI
from ansible.parsing.splitter import parse_kv

ROOT = pathlib.Path(__file__).resolve().parents[3]
FOLDERS = ("*.md", "docs/*.md", "docs/site/*.md", "roles/*/README.md", "unikernels/*/README.md", "tests/*/README.md")
PAGES = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern) if path.name != "CHANGELOG.md")
CLIS = {
    "ansible": AdHocCLI, "ansible-console": ConsoleCLI, "ansible-doc": DocCLI, "ansible-galaxy": GalaxyCLI,
    "ansible-inventory": InventoryCLI, "ansible-playbook": PlaybookCLI, "ansible-vault": VaultCLI,
}  # fmt: skip
CHECKED = {*CLIS, "make", "python", "tests/run", "tools/publish"}
# Programs of others, whose options are not ours; what names something of ours is checked below.
OTHERS = {
    "age", "ansible-navigator", "ansible-runner", "ansible-builder", "antsibull-changelog", "apt-get", "cat", "cd", "cosign",
    "cp", "curl", "dig", "echo", "eval", "export", "git", "image=$(grep", "iptables", "mkdir", "molecule", "nft", "openvpn",
    "pip", "python3", "readelf", "sed", "sha256sum", "ssh-keygen", "sysctl", "tar", "xl", "grub-editenv", "systemctl", "ssh",
    "/etc/xen/scripts/unikernels-antispoof", "opam", "dune", "mirage", "printf", "unbound-checkconf", "openssl", "qemu-img", ".",
    "chmod", "scp",
}  # fmt: skip
PROGRAMS = "|".join(map(re.escape, sorted(CHECKED, key=len, reverse=True)))


def commands(text):
    """(command, with its continued lines) of a page: of its indented and fenced shell blocks, and between backticks."""
    prose = re.sub(r"```(?!\n|sh|bash).*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", prose, re.DOTALL | re.MULTILINE)
    blocks += [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?:^    .*\n)+", prose, re.MULTILINE)]
    lines = [line for block in blocks for line in re.sub(r"(\\|\|\|?)\n\s*", r"\1 ", block).splitlines()]
    spans = re.findall(rf"`((?:{PROGRAMS}) [^`]+)`", prose)
    return [line.replace("\\ ", "") for line in lines] + [span.replace("\\|", "|").replace("\n", " ") for span in spans]


def simple(line):
    """Words of each simple command of a line: (environment, words). Quotes are a shell's."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words, found = [], []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[;|&]+", word):
            environment = []
            while words and re.match(r"[A-Z_]+=", words[0]):
                environment.append(words.pop(0).partition("=")[0])
            if words or environment:
                found.append((environment, words))
            words = []
        else:
            words.append(word)
    return found


def is_command(line):
    return bool(re.match(rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS})(?: |$)", line))


EVERY = sorted({(path, line) for path in PAGES for line in commands(path.read_text()) if is_command(line) or "&& " in line})


@functools.cache
def make():
    text = (ROOT / "Makefile").read_text()
    variables = set(re.findall(r"^([A-Z_]+) \??:?= ", text, re.MULTILINE)) | set(re.findall(r"\$\(([A-Z_]+)\)", text))
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)), variables


@functools.cache
def variables():
    """Names that `-e` may have: the page of variables, the roles' options, and what playbooks read."""
    names = set(re.findall(r"`(\w+)`", (ROOT / "docs/variables.md").read_text()))
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for point in yaml.safe_load(path.read_text())["argument_specs"].values():
            names |= set(point["options"])
    return names


@functools.cache
def options_of(module):
    text = (ROOT / f"plugins/modules/{module}.py").read_text()
    return yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.DOTALL).group(1)).get("options", {})


@functools.cache
def whole_tree():
    """The text of everything that reads environment variables."""
    folders = ("plugins/inventory", "plugins/callback", "playbooks", "inventories", "tests", "tools", "molecule")
    texts = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yml", "")
             and path.is_file() and "unit" not in path.parts]  # fmt: skip
    return "\n".join([*texts, (ROOT / "Makefile").read_text()])


def check_extra(argument):
    """What `-e` sets is a variable that something reads."""
    if argument.startswith("@"):  # a file
        return
    given = json.loads(argument) if argument.startswith("{") else parse_kv(argument)
    unknown = [name for name in given if name not in variables()]
    assert given, f"-e {argument}: sets nothing"
    assert not unknown, f"-e {argument}: nothing reads {unknown}"


def check_module(name, arguments):
    if not name.startswith("unikernels.xen."):
        assert name.startswith("ansible.builtin."), name
        return
    options = options_of(name.removeprefix("unikernels.xen."))
    given = json.loads(arguments) if (arguments or "").startswith("{") else parse_kv(arguments or "")
    assert set(given) <= set(options), f"{name} has no {sorted(set(given) - set(options))}"
    lacking = {option for option, known in options.items() if known.get("required")} - set(given)
    assert not lacking, f"{name} needs {sorted(lacking)}"
    for option, value in given.items():
        choices = options[option].get("choices")
        assert not choices or value in choices, f"{name} {option}={value}"


def check_playbook(name):
    stem = re.fullmatch(r"(?:unikernels\.xen\.|playbooks/)(\w+?)(?:\.yml)?|(site)\.yml", name)
    assert stem and ((stem[1] or stem[2]) == "NAME" or (ROOT / f"playbooks/{stem[1] or stem[2]}.yml").exists()), name


def check_ansible(program, words):
    try:
        cli = CLIS[program](["ansible-" + program, *words])
        cli.init_parser()
        options = cli.parser.parse_args(words)
    except SystemExit:
        raise AssertionError(f"{program} does not take these options: {words}") from None
    for argument in getattr(options, "extra_vars", None) or []:
        check_extra(argument)
    if program == "ansible-playbook":
        for name in options.args:
            check_playbook(name)
    elif program == "ansible":
        check_module(options.module_name, options.module_args)
    elif program == "ansible-doc":
        check_documented(options)


def check_documented(options):
    for name in options.args:
        short = name.removeprefix("unikernels.xen.")
        folder = {"module": "modules", "role": None}.get(options.type, options.type)
        if name == "unikernels.xen":  # with -l
            continue
        if folder is None:
            assert (ROOT / "roles" / short).is_dir(), name
        else:
            assert any((ROOT / "plugins" / folder / f"{short}.{kind}").exists() for kind in ("py", "yml")), name


def check_make(words):
    targets, known = make()
    for word in words:
        name, has_value, value = word.partition("=")
        if has_value:
            assert name in known, f"make knows no {name}"
            if name == "ARGS" and value.startswith("-e "):
                check_extra(value[3:])
        elif word != "build" and not word.startswith(("-", "<")):  # Mirage's own Makefile has that
            assert word in targets, f"make has no target {word}"


def check_python(words):
    if words[0] == "-m" and words[1] == "pytest":
        words, keyword = words[2:], words[words.index("-k") + 1] if "-k" in words else ""
        files = [word for word in words if word.startswith("tests/")]
        assert files and all((ROOT / file).exists() for file in files), words
        text = "".join((ROOT / file).read_text() for file in files if file.endswith(".py"))
        assert not keyword or re.search(rf"def test_\w*{keyword}", text), f"no test of {files} is called like {keyword}"
    elif words[0] == "-m":
        assert (ROOT / (words[1].replace(".", "/") + ".py")).exists() or words[1].startswith("ara."), words
    elif words[0].startswith("tests/mutants"):
        rooms = ROOT / "plugins/module_utils"
        names = [word for word in words[1:] if not word.startswith("-") and not word.isdigit()]
        assert all((rooms / name).is_dir() or (rooms / f"{name}.py").is_file() for name in names), words
    else:
        assert (ROOT / words[0]).is_file(), words


def check_stage(words):
    stages = set(re.findall(r"\[(\w+)\]=\d", (ROOT / "tests/run").read_text())) | {"all"}
    assert set(words) - {"STAGE..."} <= stages, words


def check_publish(words):
    assert words[0] in re.findall(r"tools/publish (\w+)", (ROOT / "tools/publish").read_text()), words


CHECKS = {"make": check_make, "python": check_python, "tests/run": check_stage, "tools/publish": check_publish}


@pytest.mark.parametrize("page, line", EVERY, ids=[f"{path.relative_to(ROOT)}: {line[:60]}" for path, line in EVERY])
def test_a_command_can_be_typed(page, line):
    for environment, words in simple(line):
        for name in environment:
            assert name in whole_tree() or name.startswith("ANSIBLE_"), f"nothing reads {name}"
        if not words or "..." in words or words[0] not in CHECKED:
            continue
        words = words[: words.index(">")] if ">" in words else words
        words = [word for word in words if not word.startswith((">", "<"))]
        program = words[0]
        if program in CLIS:
            check_ansible(program, words[1:])
        else:
            CHECKS[program](words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_shell_can_read_the_blocks(page):
    """And a program in them is one that is checked, or is somebody else's."""
    for line in commands(page.read_text()):
        known = is_command(line) or line.split(" ")[0] in OTHERS
        if not known or "..." in line or "<" in line.split(" # ")[0]:
            continue
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)


def test_commands_are_found():
    """Pages are read as their authors meant: the guides' commands are among those that are checked."""
    found = {line for _path, line in EVERY}
    assert len(found) > 100
    assert any(line.startswith("make site") for line in found)
    assert any('-e \'{"web_health"' in line for line in found), "a command that is continued on the next line"
    assert any(line.startswith("LAB_HOSTS=2 ansible-playbook site.yml") for line in found)


@pytest.mark.parametrize(
    "line",
    [
        "make nosuch",
        "make site NOSUCH=1",
        "ansible-playbook playbooks/nosuch.yml",
        "ansible-playbook playbooks/site.yml --nosuch",
        "ansible-playbook playbooks/rollback.yml -e nosuch=1",
        "ansible-playbook playbooks/site.yml -e '{\"web_health\": {'",
        "ansible xen_hosts -m unikernels.xen.nosuch",
        "ansible xen_hosts -m unikernels.xen.xen_domain_info -a nosuch=1",
        'ansible xen-a -m unikernels.xen.service_health -a \'{"checks": {"www": {}}}\'',
        "ansible-doc -t role unikernels.xen.nosuch",
        "python -m pytest tests/unit/nosuch.py",
        "tests/run nosuch",
        "LAB_NOSUCH=1 make site",
    ],
)
def test_a_command_that_fails_is_noticed(line):
    with pytest.raises((AssertionError, ValueError, FileNotFoundError)):
        test_a_command_can_be_typed(ROOT / "README.md", line)


def test_console_examples_are_modules_that_there_are():
    """In ansible-console a module is a command."""
    typed = re.findall(r"^    \w+@\S+ .*\$ (.+)", (ROOT / "docs/tools.md").read_text(), re.MULTILINE)
    assert typed
    for line in typed:
        check_module(*line.split(" ", 1)) if " " in line else check_module(line, "")

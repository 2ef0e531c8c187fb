"""The documentation matches the code: roles' variables, the reference, links, and the content of the tarball."""

import ast
import fnmatch
import pathlib
import re
import subprocess
import sys
import urllib.parse

import jinja2
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("unikernels/*/README.md")]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def entry_points(role):
    return read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]


def options_of(role):
    return {name: option for point in entry_points(role).values() for name, option in point["options"].items()}


@pytest.mark.parametrize("role", ROLES)
def test_each_default_of_a_role_is_documented_with_its_value(role):
    options = options_of(role)
    for name, value in read(f"roles/{role}/defaults/main.yml").items():
        assert name in options, name
        templated = isinstance(value, str) and "{{" in value
        assert templated or "default" not in options[name] or options[name]["default"] == value, name


@pytest.mark.parametrize("role", ROLES)
def test_each_entry_point_of_a_role_is_described_without_markup_in_its_title(role):
    for name, point in entry_points(role).items():
        assert point.get("description"), name
        # It is part of a task's name.
        assert not re.search(r"\b[A-Z]+\(", point["short_description"]), name


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_of_a_role_has_variables_that_there_are_and_an_example(role):
    text = (ROOT / f"roles/{role}/README.md").read_text()
    defaults = read(f"roles/{role}/defaults/main.yml")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    assert rows
    for name, shown in rows:
        assert name in options_of(role), name
        literal = re.fullmatch(r"`(.*)`", shown)
        value = defaults.get(name)
        if literal and name in defaults and not (isinstance(value, str) and "{{" in value):
            assert yaml.safe_load(literal.group(1)) == value, name
    plays = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert [entry["role"] for play in plays for entry in play["roles"]] == [f"unikernels.xen.{role}"]


def test_the_reference_has_every_module_plugin_role_and_playbook():
    text = (ROOT / "docs/reference.md").read_text()
    folders = ("modules", "inventory", "lookup", "callback")
    names = [path.stem for folder in folders for path in (ROOT / "plugins" / folder).glob("*.py")]
    names += ROLES + [path.stem for path in (ROOT / "playbooks").glob("*.yml")]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _hash, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", there.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_other_sites_have_the_form_of_links(page):
    """`tools/publish links` asks the sites; here is no internet. Links into this repository lead to a file that it has."""
    text = re.sub(r"```.*?```|`[^`]*`|^    .*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    repository = read("galaxy.yml")["repository"]
    for target in re.findall(r"\]\((https?:[^)]*)\)|<(https?:[^>]*)>|^\[[^\]]+\]: (https?:\S*)", text, re.MULTILINE):
        url = "".join(target)
        parts = urllib.parse.urlsplit(url)
        assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), url
        assert re.fullmatch(r"[!-~]+", url) and not url.endswith((".", ",", ";", ":")), url
        if url.startswith(f"{repository}/"):
            path = re.fullmatch(r"(?:tree|blob)/main/(.*)|issues|releases.*", url.removeprefix(f"{repository}/"))
            assert path and (ROOT / (path[1] or "")).exists(), url
    rest = re.sub(r"\]\([^)]*\)|<[^>]*>|^\[[^\]]+\]: .*$", "", text, flags=re.MULTILINE)
    bare = re.findall(r"(?<![(<\w/.])https?://[^\s)>\]]+", rest)
    assert bare == [], "a bare address is no link in Markdown: [words](address)"


def test_modules_of_an_action_group_share_an_option():
    shared = {"xen": "lock_timeout", "generations": "folder", "images": "store"}
    groups = read("meta/runtime.yml")["action_groups"]
    assert set(groups) == set(shared)
    for group, modules in groups.items():
        for module in modules:
            text = (ROOT / f"plugins/modules/{module}.py").read_text()
            documentation = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.DOTALL).group(1))
            assert shared[group] in documentation["options"], (group, module)


def test_a_tarball_has_what_users_need_and_nothing_of_developers():
    ignored = read("galaxy.yml")["build_ignore"]

    def built(path):
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        return not any(fnmatch.fnmatch(name, pattern) for name in above for pattern in ignored)

    needed = [
        "plugins/modules/xen_domain.py",
        "roles/xen_host/tasks/main.yml",
        "playbooks/site.yml",
        "playbooks/vars/declared.yml",
    ]
    needed += [
        "unikernels/web/unikernel.ml",
        "inventories/example/hosts.yml",
        "inventories/files/htdocs/index.html",
        "docs/operating.md",
        "bindep.txt",
    ]
    needed += ["meta/execution-environment.yml", "tests/sanity/ignore-2.19.txt", "README.md", "LICENSE"]
    assert [path for path in needed if not built(path) or not (ROOT / path).exists()] == []
    developers = [
        "requirements.txt",
        "Makefile",
        "tests/unit/docs/test_documents.py",
        "tests/soak.py",
        "molecule/default/molecule.yml",
    ]
    assert [path for path in developers if built(path) or not (ROOT / path).exists()] == []
    # ansible-test and Galaxy read the lists of exceptions; all other tests are the repository's.
    assert [path.name for path in (ROOT / "tests").iterdir() if path.name != "sanity" and built(f"tests/{path.name}")] == []


# Where the modules come from that plugins on the controller import; ansible-core brings the rest.
PACKAGES = {"dns": "dnspython", "cyclonedx": "cyclonedx-python-lib", "packageurl": "cyclonedx-python-lib"}
OF_ANSIBLE_CORE = {"ansible", "ansible_collections", "cryptography", "jinja2", "packaging", "yaml"}


def foreign_packages_on_the_controller():
    """Return module names -> the package; an import that PACKAGES doesn't have is a KeyError that names it."""
    parts = ("action", "callback", "filter", "inventory", "lookup", "plugin_utils", "module_utils/fleet", "module_utils/service")
    found = {}
    for path in (path for part in parts for path in (ROOT / "plugins" / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OF_ANSIBLE_CORE:
                found.setdefault(PACKAGES[name], path)
    return found


def test_an_execution_environment_gets_what_a_controller_needs():
    """Without meta/execution-environment.yml ansible-builder would take the developers' requirements.txt."""
    dependencies = read("meta/execution-environment.yml")["dependencies"]
    lines = (ROOT / dependencies["python"]).read_text().splitlines()
    packages = {re.match(r"[\w-]+", line)[0] for line in lines if not line.startswith("#")}
    assert packages == set(foreign_packages_on_the_controller())
    assert (ROOT / dependencies["system"]).exists()


def test_the_licence_is_the_same_where_galaxy_and_where_reuse_look_for_it():
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "LICENSES/GPL-3.0-or-later.txt").read_bytes()


def test_the_strangers_scenario_is_whole_and_short():
    """tests/stranger runs these files exactly as they are on the page."""
    text = (ROOT / "docs/molecule.md").read_text().split("## Ten lines")[1].split("\n## ")[0]
    files = dict(re.findall(r"```yaml\n# molecule/default/(\S+)\n(.*?)```", text, re.DOTALL))
    assert sorted(files) == ["converge.yml", "create.yml", "destroy.yml", "lab.yml", "molecule.yml", "verify.yml"]
    assert all(yaml.safe_load(content) for content in files.values())
    assert sum(len(content.splitlines()) for content in files.values()) <= 10


def test_each_target_of_make_is_described_and_completed():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE).group(1).split())
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony - described == {"test-setup"}
    script = "source tools/completion.bash; COMP_WORDS=(make bench); COMP_CWORD=1; _described_targets; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bench", "bench-peers"]


@pytest.mark.parametrize("checkout", [True, False])
def test_the_summary_of_a_lab_names_what_can_be_typed(checkout):
    """A tarball has no Makefile."""
    template = (ROOT / "playbooks/templates/summary.j2").read_text()
    values = {
        "inventory_hostname": "xen1", "lab_http_port": 8080, "lab_dns_port": 5353, "lab_machine": {}, "vpn_pki": "/vpn",
        "declared_unikernels": [], "unikernel_images_stored": {}, "in_checkout": checkout, "ansible_port": 2201,
        "ansible_ssh_private_key_file": "/key", "lab_folder": "/lab",
    }  # fmt: skip
    environment = jinja2.Environment(trim_blocks=True, autoescape=True, undefined=jinja2.StrictUndefined)
    lines = environment.from_string(template).render(values).partition("type next:")[2]
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made, played = re.findall(r"make ([a-z-]+)", lines), re.findall(r"unikernels\.xen\.(\w+)", lines)
    assert set(made) <= targets and bool(made) == checkout
    assert all((ROOT / f"playbooks/{name}.yml").exists() for name in played) and bool(played) != checkout


def test_each_variable_that_a_playbook_takes_with_e_is_in_the_page_of_variables():
    page = (ROOT / "docs/variables.md").read_text()
    for path in (ROOT / "playbooks").glob("*.yml"):
        for name in re.findall(r"{{ \[?(\w+) \| default\(", path.read_text()):
            assert f"`{name}`" in page or name.startswith(("unikernel", "xen_host")), (path.name, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_in_pages_can_be_read(page):
    for block in re.findall(r"```ya?ml\n(.*?)```", page.read_text(), re.DOTALL):
        list(yaml.safe_load_all(block))


def test_playbooks_that_pages_name_are_there():
    names = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    for page in PAGES:
        for name in re.findall(r"ansible-playbook [^\n`]*?(?:unikernels\.xen\.|playbooks/)(\w+)", page.read_text()):
            assert name in names | {"NAME"}, (page.name, name)


def test_every_page_of_the_guides_is_on_the_site():
    index = (ROOT / "docs/site/index.md").read_text()
    missing = [path.stem for path in (ROOT / "docs").glob("*.md") if not re.search(rf"\bdocs/{path.stem}\b", index)]
    assert missing == []

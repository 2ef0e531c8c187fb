"""The table of options: documentation matches what is accepted, and what is compared can be read from Xen."""

import ast
import dataclasses
import pathlib

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.unikernels.xen.plugins.module_utils.domain import fields
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Domain
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.xen.argspec import typed

MODULES = pathlib.Path(__file__).parents[3] / "plugins" / "modules"


def documented(module):
    for node in ast.parse((MODULES / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "DOCUMENTATION":
            return yaml.safe_load(ast.literal_eval(node.value))["options"]
    raise AssertionError(module)


def assert_same(options, spec, where=""):
    assert list(options) == list(spec) or set(options) == set(spec), where
    for name, option in options.items():
        argument = spec[name]
        for key in ("type", "required", "default", "choices", "elements"):
            assert option.get(key) == argument.get(key), f"{where}{name}: {key}"
        assert_same(option.get("suboptions", {}), argument.get("options", {}), f"{name}.")


def test_the_documentation_is_the_table():
    assert_same(documented("xen_domain"), fields.argument_spec((*fields.DOMAIN, fields.LOCK)))
    assert documented("xen_domains")["lock_timeout"]["default"] == fields.LOCK.default


def test_what_is_compared_and_changed_live_is_an_attribute_of_a_domain():
    attributes = {field.name for field in dataclasses.fields(Domain)}
    assert attributes >= set(fields.COMPARED)
    assert set(fields.COMPARED) >= fields.LIVE
    for field in fields.DOMAIN:
        if field.compared and field.default is not None:
            assert getattr(Domain("a", "u", "/k", 64), field.name) == field.default, field.name


@pytest.mark.parametrize("key", ["type", "builder", "pvh", "memory", "maxvcpus", "extra", "root", "vif", "disk", "on_crash"])
def test_what_has_an_option_is_not_for_extra_config(key):
    assert fields.extra_key_refusal(key).startswith("has an option of its own")


@pytest.mark.parametrize("key", ["pool", "max_grant_frames", "nomigrate", "pci", "on_watchdog", "cpus_soft"])
def test_what_has_none_is(key):
    assert fields.extra_key_refusal(key) == ""


@pytest.mark.parametrize(
    "options",
    [
        {"live": "yes", "adopt": "no"},
        {"memory": "96", "vcpus": "2", "shutdown_timeout": "0"},
        {"memory": 96.0},
        {"kernel": "~/web.xen"},
        {"kernel": "$HOME/web.xen"},
        {"live": "maybe"},
        {"memory": "lots"},
        {"memory": 1.5},
        {"memory": "1.5"},
        {"memory": "1e3"},
        {"memory": "6_4"},
        {"memory": "\u0666\u0664"},
        {"memory": " 64 "},
        {"memory": "+64"},
        {"memory": "0x40"},
        {"memory": "64,0"},
        {"memory": "nan"},
        {"memory": "9" * 5000},
        {"state": "up"},
        {"cpus": 3},
        {"interfaces": [{"bridge": "xenbr0", "mtu": "9000"}]},
        {"interfaces": [{"bridge": "xenbr0", "mac": 41135085296}]},
        {"interfaces": [{}]},
        {"disks": [{"path": "~/d", "size": 8}]},
        {"disks": [{"path": "/d", "size": "8", "shared": "no"}]},
        {"health": {"tcp": "10.0.0.1:80", "within": "5"}},
        {"arguments": "console=hvc0"},
        {"arguments": 3},
        {"extra_config": {"nomigrate": True}},
        {"memory": None, "update": None, "disks": None, "interfaces": [{"bridge": "b", "mtu": None}]},
        {"memory": float("inf")},
        {"memroy": 64},
    ],
)
def test_modules_and_roles_give_the_same_answer(options):
    """Roles get what YAML says; modules what Ansible makes of it."""
    options = {"name": "www", "kernel": "/k", **options}
    one_module = ArgumentSpecValidator(fields.argument_spec(fields.DOMAIN))

    def answer(declared):
        try:
            return declaration_of(declared, "h")
        except SpecError:
            return None

    by_role = answer(options)
    assert by_role == answer(typed([options])[0][0])
    if None not in options.values() and float("inf") not in options.values():
        result = one_module.validate(options)
        assert by_role == (None if result.error_messages else answer(result.validated_parameters))


def test_content_is_in_no_log():
    domains = [{"name": "a", "disks": [{"content": "secret key"}]}, {"name": "b", "memroy": 1, "disks": [{"content": "other"}]}]
    domains.append({"name": "c", "memory": float("inf"), "disks": [{"content": "third"}]})
    assert typed(domains)[1] == {"secret key", "other", "third"}


def test_a_definition_has_no_key_that_extra_config_could_say_again():
    domain = declaration_of(
        {"name": "a", "kernel": "/k", "ramdisk": "/r", "cpus": "1", "cpu_weight": 2, "cap": 3, "arguments": ["x"],
         "interfaces": [{"bridge": "b"}], "disks": [{"path": "/d"}]}, "h"
    ).domain  # fmt: skip
    keys = [line.split(" = ")[0] for line in xl_config(domain).splitlines() if not line.startswith("#")]
    assert sorted(keys) == sorted(field.xl[0] for field in fields.DOMAIN if field.xl)


def nested(depth, kind):
    value = 1
    for _level in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize(
    "value", [10**5000, "1e999999999", nested(2000, list), nested(2000, dict)], ids=["digits", "exponent", "lists", "mappings"]
)
@pytest.mark.parametrize("option", [field.name for field in fields.DOMAIN if field.name != "name"])
def test_a_value_without_measure_is_one_short_line(option, value):
    """Neither takes minutes nor exhausts the stack."""
    device = {"path": "/d", "size": value, "bridge": "b", "mtu": value}
    declared = {"name": "www", "kernel": "/k", "interfaces": [device], "disks": [device], option: value}
    for options in (declared, typed([declared])[0][0]):
        try:
            declaration_of(options, "h")
        except SpecError as refusal:
            assert "\n" not in str(refusal) and len(str(refusal)) < 1000


@pytest.mark.parametrize("value", [None, True, 10**30, float("nan"), "", "{", ["x"], [[None]], {"a": {"b": None}}])
@pytest.mark.parametrize("option", [field.name for field in fields.DOMAIN if field.name != "name"])
def test_no_value_gives_a_traceback_on_its_way_through_a_module(option, value):
    (options,), _secrets = typed([{"name": "www", "kernel": "/k", option: value}])
    try:
        declaration_of(options, "h")
    except SpecError as refusal:
        assert "\n" not in str(refusal)

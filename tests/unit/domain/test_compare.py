"""Differences are reported in the words of the options, and can be written back as options."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.boot_line import ADDRESS_FIELDS, read_back
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import (
    as_options,
    differences,
    option_of,
    options_of,
    view,
    with_image,
)
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.fields import DOMAIN, LIVE
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Domain, Interface
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import extra_config, xl_config
from hypothesis import given
from hypothesis import strategies as st

STORE = "/var/lib/unikernels/images"
OLD, NEW = (f"{STORE}/{letter * 64}.xen" for letter in "ab")
VIF = {"bridge": "xenbr0", "mac": "00:16:3e:00:00:01", "address": "10.0.0.2/24", "gateway": "10.0.0.1"}
OTHER = {"bridge": "xenbr1", "mac": "00:16:3e:00:00:02", "address": "10.1.0.2/24", "group": "management"}


def declare(**options):
    return declaration_of({"name": "www", "kernel": OLD, **options}, "h").domain


def observed(domain):
    """Return the domain as Xen reports it, without addresses and groups."""
    bare = [dataclasses.replace(vif, **dict.fromkeys(ADDRESS_FIELDS, "")) for vif in domain.interfaces]
    return dataclasses.replace(domain, interfaces=tuple(bare))


def paths(new, old):
    return differences(declare(**new), observed(declare(**old)))


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ({}, {}, []),
        ({"memory": 96}, {}, ["memory"]),
        ({"kernel": NEW}, {}, ["image"]),
        ({"kernel": "/k"}, {}, ["kernel"]),
        ({"interfaces": [VIF]}, {"interfaces": [VIF]}, []),
        ({"interfaces": [{**VIF, "address": "10.0.0.3/24"}]}, {"interfaces": [VIF]}, ["interfaces[0].address"]),
        (
            {"interfaces": [VIF], "arguments": {"port": 80}},
            {"interfaces": [{**VIF, "gateway": "10.0.0.9"}], "arguments": {"port": 81}},
            ["interfaces[0].gateway", "arguments"],
        ),
        (
            {"interfaces": [VIF, OTHER]},
            {"interfaces": [VIF, {**OTHER, "address": "10.1.0.9/24"}]},
            ["interfaces[1].address"],
        ),
        ({"interfaces": [{**VIF, "group": "wan"}]}, {"interfaces": [VIF]}, ["interfaces[0].group"]),
        ({"interfaces": [VIF, OTHER]}, {"interfaces": [VIF, {**OTHER, "group": "m"}]}, ["interfaces[1].group"]),
        (
            {"interfaces": [{**VIF, "rate": "1Mb/s", "mtu": 9000}]},
            {"interfaces": [VIF]},
            ["interfaces[0].rate", "interfaces[0].mtu"],
        ),
        ({"interfaces": [{**VIF, "mac": OTHER["mac"]}]}, {"interfaces": [VIF]}, ["interfaces[0].mac"]),
        ({"interfaces": [VIF, OTHER]}, {"interfaces": [VIF]}, ["interfaces[1].address", "interfaces[1]"]),
        ({"interfaces": [OTHER, VIF]}, {"interfaces": [VIF, OTHER]}, ["arguments", "interfaces"]),
        (
            {"interfaces": [{**VIF, "address6": "2001:db8::2/64"}]},
            {"interfaces": [VIF]},
            ["interfaces[0].address6"],
        ),
        ({"interfaces": [{"bridge": "b"}], "arguments": {"ipv4": "10.0.0.3/24"}},
         {"interfaces": [{"bridge": "b"}], "arguments": {"ipv4": "10.0.0.2/24"}}, ["arguments"]),
        ({"disks": [{"content": "new"}]}, {"disks": [{"content": "old"}]}, ["disks[0].content"]),
        ({"disks": [{"path": "/b"}]}, {"disks": [{"path": "/a"}]}, ["disks[0].path"]),
        ({"disks": [{"path": "/a"}, {"path": "/b"}]}, {"disks": [{"path": "/a"}]}, ["disks[1]"]),
        ({"disks": [{"path": "/b", "vdev": "xvdb"}]},
         {"disks": [{"path": "/a", "vdev": "xvda"}, {"path": "/b", "vdev": "xvdb"}]}, ["disks[0]"]),
        ({"extra_config": {"pool": "a", "x": 1}}, {"extra_config": {"pool": "b", "x": 1}}, ["extra_config.pool"]),
        ({"arguments": "console=hvc0"}, {"arguments": "console=hvc0 ro"}, ["arguments"]),
    ],
)  # fmt: skip
def test_what_differs_is_named_as_it_was_written(new, old, expected):
    assert paths(new, old) == expected


@pytest.mark.parametrize(
    ("path", "option"),
    [("memory", "memory"), ("image", "kernel"), ("uuid", "uuid"), ("interfaces", "interfaces"), ("interfaces[1]", "interfaces"),
     ("interfaces[1].rate", "interfaces"), ("interfaces[0].address", "arguments"), ("interfaces[0].gateway6", "arguments"),
     ("interfaces[0].group", "arguments"), ("disks[0].content", "disks"), ("extra_config.pool", "extra_config")],
)  # fmt: skip
def test_a_path_belongs_to_an_option(path, option):
    assert option_of(path) == option


def test_an_address_is_not_changed_live():
    """Another interface with an address also means another boot line."""
    assert set(options_of(paths({"interfaces": [{"bridge": "b"}]}, {}))) <= LIVE
    assert not set(options_of(paths({"interfaces": [VIF]}, {}))) <= LIVE
    assert options_of(["interfaces[0].rate", "interfaces[0].mtu", "cap"]) == ("interfaces", "cap")


addresses = st.fixed_dictionaries(
    {"bridge": st.just("xenbr0")},
    optional={
        "address": st.sampled_from(["10.0.0.2/24", "10.0.0.3/24"]),
        "address6": st.sampled_from(["2001:db8::2/64", "2001:db8::3/64"]),
    },
)
domains = st.builds(
    lambda interfaces, groups, arguments, more: declare(
        interfaces=[{**vif, **({"group": group} if group else {})} for vif, group in zip(interfaces, groups)],
        arguments=arguments,
        **more,
    ),
    st.lists(addresses, max_size=3),
    st.permutations(["", "management", "inside"]),
    st.lists(st.sampled_from(["--port=80", "--ipv4-only=true", 'a "b" \\ c', "--x=ü"]), max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "memory": st.sampled_from([64, 96]),
            "maxmem": st.just(128),
            "cpus": st.just("0-1"),
            "extra_config": st.fixed_dictionaries(
                {},
                optional={
                    "pool": st.text(st.characters(blacklist_categories=("Cs", "Cc"))),
                    "x": st.integers(-9, 9) | st.booleans(),
                    "list": st.lists(st.sampled_from(["a, b", '"', "\\", "x\u2028y", "]", "1"]), max_size=3),
                },
            ),
            "disks": st.sampled_from([[{"path": "/a", "access": "w"}], [{"content": "x"}, {"path": "/b", "vdev": "xvdq"}]]),
        },
    ),
)


@given(domains, domains)
def test_addresses_are_read_back_from_the_line(domain, wanted):
    assert read_back(observed(domain), domain) == read_back(domain, domain)
    assert differences(domain, observed(domain)) == []
    names = {field.name for field in DOMAIN}
    assert {option_of(path) for path in differences(wanted, observed(domain))} <= names
    assert bool(differences(wanted, observed(domain))) == (dataclasses.replace(wanted, uuid=domain.uuid) != domain)


@given(domains)
def test_what_is_shown_can_be_declared(domain):
    assert declaration_of(as_options(domain, domain), "h").domain == domain
    assert [vif.address for vif in declaration_of(as_options(domain, domain), "h").domain.interfaces] == [
        vif.address for vif in domain.interfaces
    ]
    assert as_options(observed(domain), domain)["interfaces"] == as_options(domain, domain)["interfaces"]
    # Without the declaration, at least the same line results.
    again = declaration_of(as_options(observed(domain)), "h").domain
    assert again.arguments == domain.arguments


@given(domains)
def test_extra_config_is_read_back_from_a_definition(domain):
    assert extra_config(xl_config(domain)) == domain.extra_config


def test_a_line_of_another_grammar_is_left_alone():
    line = "root=/dev/xvda  ro 'x"
    domain = Domain("a", "u", "/k", 64, arguments=line, interfaces=(Interface("b", "m"),))
    assert read_back(domain) == (domain.interfaces, line)
    assert as_options(domain)["arguments"] == line


def test_a_diff_names_the_image():
    old, new = (view(declare(kernel=kernel), "running", True) for kernel in (OLD, NEW))
    assert with_image(old, lambda _path: "web")["image"] == "web (aaaaaaaaaaaa)"
    assert "kernel" not in with_image(old, lambda _path: "web")
    assert with_image(new, lambda _path: "")["image"] == "(bbbbbbbbbbbb)"
    other = view(declare(kernel="/k"), "running", True)
    assert with_image(other, lambda _path: "web") == other
    assert with_image({"state": "absent"}, lambda _path: "web") == {"state": "absent"}


def test_a_diff_has_no_words_for_what_nobody_wrote():
    wanted = declare(interfaces=[VIF], arguments={"port": 80}, extra_config={"pool": "Pool-1"})
    shown = view(observed(wanted), "running", True, wanted)
    assert shown["interfaces"][0]["address"] == "10.0.0.2/24"
    assert "address6" not in shown["interfaces"][0]
    assert shown["arguments"] == ["--port=80"]
    assert shown["extra_config"] == {"pool": "Pool-1"}

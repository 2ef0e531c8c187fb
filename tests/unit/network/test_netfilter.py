"""A foreign packet filter that cuts domains off is detected; a harmless one is ignored."""

import json
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.netfilter import cut_off, look, not_routed
from hypothesis import given
from hypothesis import strategies as st

ON = {"bridge-nf-call-iptables": "1\n", "bridge-nf-call-ip6tables": "0"}
DOCKER = """table ip filter {
  chain FORWARD {
    type filter hook forward priority 0; policy drop;
    jump DOCKER-USER; ct state established accept; iifname "docker0" accept;
  }
  chain DOCKER-USER { %s; }
}
"""
OURS = "table inet unikernels { chain forward { type filter hook forward priority -200; policy accept; iifname vif* drop; } }"


def listed(text):
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not nft:
        pytest.skip("nft is not installed")
    # nft requires a newline after a brace.
    text = text.replace("{ ", "{\n").replace("}", "}\n")
    words = ["unshare", "--net", "sh", "-c", f"{nft} -f - && {nft} -j list ruleset"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(f"a network namespace needs root: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(text, legacy=None, switches=ON):
    return cut_off(listed(text), legacy or {}, switches, ["xenbr0"])


def test_dockers_forward_is_found():
    (line,) = lines(DOCKER % "return" + OURS)
    assert line.startswith(
        "bridge xenbr0: br_netfilter sends its packets through chain FORWARD of table ip filter, which drops them"
    )
    assert "DOCKER-USER" in line and "\n" not in line


@pytest.mark.parametrize(
    "text",
    [
        OURS,
        DOCKER % 'iifname "xenbr0" oifname "xenbr0" accept',
        DOCKER % 'iifname "xen*" accept',
        "table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }",  # its switch is off
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; ip saddr 10.9.9.9 drop; } }",
        "table ip filter { chain INPUT { type filter hook input priority 0; policy drop; } }",
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; accept; } }",
        "table bridge filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }",
    ],
)
def test_others_are_left_in_peace(text):
    assert lines(text) == []


def test_a_last_rule_that_rejects_is_a_policy():
    text = "table inet firewalld { chain f { type filter hook forward priority 10; ct state established accept; reject; } }"
    (line,) = lines(text)
    assert "chain f of table inet firewalld" in line


def test_without_the_switch_nothing_is_met():
    assert lines(DOCKER % "return", switches={"bridge-nf-call-iptables": "0"}) == []
    assert lines(DOCKER % "return", switches={}) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n", 1),
        ("-P FORWARD DROP\n-A FORWARD -i xenbr0 -o xenbr0 -j ACCEPT\n", 0),
        ("-P FORWARD DROP\n-A FORWARD -i xenbr01 -j ACCEPT\n", 1),
        ("-P FORWARD DROP\n-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n", 0),
        ("-P FORWARD DROP\n-A FORWARD -j ACCEPT\n", 0),
        ("-P FORWARD ACCEPT\n", 0),
        ("", 0),
    ],
)
def test_iptables_legacy(text, count):
    assert len(cut_off({}, {"bridge-nf-call-iptables": text}, ON, ["xenbr0"])) == count


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.sampled_from(["forward", "drop", "ip", "inet", "FORWARD"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["chain", "rule", "hook", "family", "expr", "match", "left", "policy", "table"]), inner),
    ),
    max_leaves=12,
)


@given(st.lists(values, max_size=4), st.text())
def test_any_listing_is_read(entries, text):
    assert isinstance(cut_off({"nftables": entries}, {"bridge-nf-call-iptables": text}, ON, ["xenbr0"]), list)


# -- what Dom0 routes ---------------------------------------------------------------------------------

UFW = """table ip filter {
  chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw-before-forward; }
  chain ufw-before-forward { ct state established accept; %s; }
}
"""
FIREWALLD = """table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority 10; policy accept;
    ct state established accept; jump filter_FORWARD_POLICIES; reject;
  }
  chain filter_FWD_trusted { accept; }
  chain filter_FORWARD_POLICIES { %s; }
}
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (DOCKER % "return", "FORWARD of table ip filter drops what Dom0 routes for it: its domains are cut off; type iptables"
                            " -I DOCKER-USER -i inside -j ACCEPT && iptables -I DOCKER-USER -o inside -j ACCEPT"),
        (UFW % "return", "type ufw route allow in on inside && ufw route allow out on inside"),
        (FIREWALLD % "return", "type firewall-cmd --permanent --zone=trusted --add-interface=inside && firewall-cmd --reload"),
        ("table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }", "type ip6tables -I FORWARD"),
        ("table inet mine { chain f { type filter hook forward priority 0; policy drop; } }",
         "type nft insert rule inet mine f iifname inside accept && nft insert rule inet mine f oifname inside accept"),
    ],
)  # fmt: skip
def test_what_is_routed_is_cut_off_without_br_netfilter(text, what):
    (line,) = not_routed(listed(text + OURS), {}, ["inside"])
    assert line.startswith("bridge inside: chain ") and what in line and "\n" not in line


@pytest.mark.parametrize(
    "text",
    [
        OURS,
        DOCKER % 'iifname "inside" accept',
        UFW % 'iifname "inside" accept',
        FIREWALLD % 'iifname "inside" goto filter_FWD_trusted',
    ],
)
def test_what_lets_routed_packets_through_is_left_in_peace(text):
    assert not_routed(listed(text), {}, ["inside"]) == []


def test_iptables_legacy_drops_what_is_routed():
    (line,) = not_routed({}, {"bridge-nf-call-ip6tables": "-P FORWARD DROP\n"}, ["inside"])
    assert line.endswith(
        "type ip6tables-legacy -I FORWARD -i inside -j ACCEPT && ip6tables-legacy -I FORWARD -o inside -j ACCEPT"
    )


def test_a_host_is_asked_only_for_what_counts():
    asked = []
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}

    def run(*words):
        asked.append(words[0])
        return json.dumps({"nftables": [{"chain": chain}]}) if words[0] == "nft" else "-P FORWARD DROP\n"

    assert look(lambda path: "", run, ["xenbr0"], []) == [] and asked == []
    (line,) = look(lambda path: "", run, ["inside", "xenbr0"], ["inside"])
    assert line.startswith("bridge inside: chain FORWARD of table ip filter drops") and asked == ["nft"]
    files = {"/proc/net/ip_tables_names": "filter\n", "/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n"}
    lines = look(lambda path: files.get(path, ""), run, ["inside", "xenbr0"], ["inside"])
    assert [line.split(":")[0] for line in lines] == ["bridge xenbr0"] * 2 + ["bridge inside"] * 2

"""DNS unikernels that forward to each other in a circle: one line, about one of them, and only where they reach each other."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Problem, Resolved, compile_fleet
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.forwarding import Resolver, loops
from hypothesis import given
from hypothesis import strategies as st

NAT = {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}}


def resolver(address, *forward, bridge="xenbr0", **values):
    interfaces = [{"bridge": bridge, "address": f"{address}/24" if "." in address else f"{address}/64"}]
    return {"dns_interfaces": interfaces, "dns_forward": list(forward), **values}


def problems(**hosts):
    resolved = {name: Resolved(values) for name, values in hosts.items()}
    return compile_fleet(resolved, Asked(), lambda service: f"/src/{service}").problems


def test_a_circle_is_one_line():
    first, second, third = (
        resolver("10.0.0.1", "10.0.0.2"),
        resolver("10.0.0.2", "9.9.9.9", "10.0.0.3"),
        resolver("10.0.0.3", "10.0.0.1"),
    )
    assert problems(a=first, b=second, c=third) == [
        Problem("a", "dns_forward: 10.0.0.2 is dns of b, which forwards to dns of c, which forwards to this one: a question"
                " would go round; let one of them forward elsewhere, or resolve"),
    ]  # fmt: skip
    assert problems(a=first, b=second, c=resolver("10.0.0.3")) == []


def test_two_of_one_host():
    more = [{"name": "dns-b", "interfaces": [{"bridge": "xenbr0", "address": "10.0.0.2/24"}], "forward": ["10.0.0.1"]}]
    (problem,) = problems(a=resolver("10.0.0.1", "10.0.0.2", dns_servers=more))
    assert problem.line.startswith("dns_forward: 10.0.0.2 is dns-b of a, which forwards to this one")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (resolver("2001:db8::53", "2001:db8:0::0:53"), "dns_forward: 2001:db8::53 is the resolver's own address"),
        (resolver("10.0.0.1", "::ffff:10.0.0.1"), "dns_forward: 10.0.0.1 is the resolver's own address"),
        (resolver("10.0.0.1", "127.0.0.1"), "dns_forward: 127.0.0.1 is no address of another server"),
        (resolver("10.0.0.1", "9.9.9.9", "::"), "dns_forward: :: is no address of another server"),
        (resolver("10.0.0.1", "224.0.0.1"), "dns_forward: 224.0.0.1 is no address of another server"),
        (resolver("10.0.0.1", dns_arguments={"forward": "10.0.0.1"}), "dns_forward: 10.0.0.1 is the resolver's own address"),
        ({**resolver("10.77.0.53", "192.0.2.9"), "dns_interfaces": [{"network": "inside", "address": "10.77.0.53/24"}],
          "xen_host_networks": NAT, "dns_publish": [{"port": 53, "protocol": "udp", "address": "192.0.2.9"}]},
         "dns_forward: 192.0.2.9 is the resolver's own address"),
    ],
)  # fmt: skip
def test_the_resolver_itself_by_each_of_its_names(values, words):
    (problem,) = problems(a=values)
    assert problem.line.startswith(words), problem.line


def test_the_same_address_elsewhere_is_another_server():
    local = {**resolver("10.77.0.53", "10.77.0.54"), "xen_host_networks": NAT}
    local["dns_interfaces"] = [{"network": "inside", "address": "10.77.0.53/24"}]
    other = {**local, "dns_forward": ["10.77.0.53"], "dns_interfaces": [{"network": "inside", "address": "10.77.0.54/24"}]}
    assert problems(a=local, b=other) == []
    ways = resolver("10.0.0.1", "10.0.0.2"), resolver("10.0.0.2", "10.0.0.1", xen_host_site="elsewhere")
    assert problems(a=ways[0], b=ways[1]) == []
    public = resolver("9.9.9.1", "9.9.9.2"), resolver("9.9.9.2", "9.9.9.1", xen_host_site="elsewhere")
    assert len(problems(a=public[0], b=public[1])) == 1


def test_a_limit_reports_the_circles_of_its_hosts():
    hosts = {
        name: Resolved(resolver(own, asked))
        for name, own, asked in (("a", "10.0.0.1", "10.0.0.2"), ("b", "10.0.0.2", "10.0.0.1"))
    }
    for reported, count in ((frozenset("b"), 1), (frozenset(), 0)):
        fleet = compile_fleet({**hosts, "c": Resolved({})}, Asked(), lambda service: "/src", reported)
        assert len(fleet.problems) == count


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=3), max_size=8))
def test_there_is_a_line_exactly_where_a_question_can_come_back(edges):
    def back(start):
        seen, waiting = set(), list(edges[start])
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += edges.get(one, [])
        return start in seen

    every = [
        Resolver(
            "h", f"d{own}", "", frozenset({(("site ", "b"), f"10.0.0.{own + 1}")}), tuple(f"10.0.0.{to + 1}" for to in asked)
        )
        for own, asked in edges.items()
    ]
    lines = [line for _hosts, line in loops(every)]
    assert bool(lines) == any(map(back, edges)) and len(lines) <= sum(map(back, edges))

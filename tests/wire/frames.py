"""Ethernet frames, byte by byte: those that a guest may send, and those that an attacker would try."""

# ruff: noqa: E501 -- a table, one frame a line

import ipaddress
import struct

GUEST, OTHER, GATEWAY, NOBODY = "00:16:3e:00:00:01", "00:16:3e:00:00:02", "52:54:00:00:00:fe", "02:00:00:00:00:99"
ADDRESS, ADDRESS6 = "10.0.0.11", "fd00::11"
OTHERS, OTHERS6 = "10.0.0.12", "fd00::12"
THE_GATEWAY, THE_GATEWAY6 = "10.0.0.254", "fe80::fe"
DOM0, DOM0_6 = "10.0.0.1", "fd00::1"
LINK_LOCAL = "fe80::216:3eff:fe00:1"
BEHIND, BEHIND6 = "10.8.0.0/24", "fd08::/61"  # what the guest routes for, if it does
ALL, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
TCP, UDP, ICMP, IGMP, ICMP6 = 6, 17, 1, 2, 58


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def packed(text):
    return ipaddress.ip_address(text).packed


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ether(payload, kind=0x0800, source=GUEST, target=OTHER):
    return (mac(target) + mac(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(
    operation=1, sender=ADDRESS, sender_mac=GUEST, asked=OTHERS, asked_mac="00:00:00:00:00:00", htype=1, source=GUEST, target=ALL
):
    head = struct.pack("!HHBBH", htype, 0x0800, 6, 4, operation)
    return ether(head + mac(sender_mac) + packed(sender) + mac(asked_mac) + packed(asked), 0x0806, source, target)


def ip(payload, protocol=UDP, source=ADDRESS, target=OTHERS, fragment=0, options=b"", ttl=64):
    words = 5 + len(options) // 4

    def head(check):
        return struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 77, fragment, ttl, protocol, check)

    rest = packed(source) + packed(target) + options
    return head(checksum(head(0) + rest)) + rest + payload


def udp(source=5000, target=5001, data=b"hello", addresses=None):
    head = struct.pack("!HHHH", source, target, 8 + len(data), 0)
    if addresses:
        both = packed(addresses[0]) + packed(addresses[1])
        head = head[:6] + struct.pack("!H", checksum(both + struct.pack("!II", 8 + len(data), UDP) + head + data))
    return head + data


def tcp(source=5000, target=80, flags=2, addresses=(ADDRESS, OTHERS)):
    head = struct.pack("!HHIIBBHHH", source, target, 1, 0, 0x50, flags, 8192, 0, 0)
    both = b"".join(map(packed, addresses))
    pseudo = both + (struct.pack("!II", 20, TCP) if ":" in addresses[0] else struct.pack("!BBH", 0, TCP, 20))
    return head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]


def icmp(kind=8, code=0, data=b"\0\1\0\1ping"):
    head = struct.pack("!BBH", kind, code, 0)
    return head[:2] + struct.pack("!H", checksum(head + data)) + data


def ip6(payload, header=ICMP6, source=ADDRESS6, target=OTHERS6, hops=255):
    return struct.pack("!IHBB", 6 << 28, len(payload), header, hops) + packed(source) + packed(target) + payload


def icmp6(kind, data=b"\0\0\0\0", source=ADDRESS6, target=OTHERS6, code=0):
    head = struct.pack("!BBH", kind, code, 0)
    pseudo = packed(source) + packed(target) + struct.pack("!II", 4 + len(data), ICMP6)
    return head[:2] + struct.pack("!H", checksum(pseudo + head + data)) + data


def neighbour(kind, subject, source=ADDRESS6, target="ff02::1", option=None, flags=0x20000000, more=b""):
    data = struct.pack("!I", flags if kind == 136 else 0) + packed(subject) + (option or b"") + more
    return ip6(icmp6(kind, data, source, target), source=source, target=target)


def link_option(kind=2, address=GUEST):
    return bytes([kind, 1]) + mac(address)


def ra(source=LINK_LOCAL, target="ff02::1"):
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + packed("fd66::")
    return icmp6(134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix + link_option(1), source, target)


def options_header(following, first=b"\1\4\0\0\0\0"):
    """Return hop-by-hop or destination options of 8 bytes (PadN)."""
    return bytes([following, 0]) + first


def fragment6(following, offset, more, number=7):
    return struct.pack("!BBHI", following, 0, offset << 3 | more, number)


ROUTER_ALERT = b"\5\2\0\0\1\0"
SIX = 0x86DD


def ether6(packet, source=GUEST, target=ALL_NODES):
    return ether(packet, SIX, source, target)


def mld(kind, source=LINK_LOCAL, header=True):
    data = struct.pack("!HH", 0, 1) + struct.pack("!BBH", 4, 0, 0) + packed("ff02::1:ff00:11")
    target = "ff02::16" if kind == 143 else "ff02::1"
    body = icmp6(kind, data, source, target)
    return (
        ip6(options_header(ICMP6, ROUTER_ALERT) + body, 0, source, target, 1) if header else ip6(body, ICMP6, source, target, 1)
    )


def dhcp(kind=1, chaddr=GUEST):
    return struct.pack("!BBBBIHH16x", kind, 1, 6, 0, 99, 0, 0x8000) + mac(chaddr) + b"\0" * 202 + b"\x63\x82\x53\x63\xff"


def vlan(frame, *tags):
    """Return the frame with 802.1Q or 802.1ad tags (type, number)."""
    return frame[:12] + b"".join(struct.pack("!HH", kind, number) for kind, number in tags) + frame[12:]


def lawful():
    ra_option = b"\x94\4\0\0"
    long = udp(53, 5001, b"x" * 1472)
    return {
        "ARP request": arp(),
        "ARP reply": arp(2, asked=OTHERS, asked_mac=OTHER, target=OTHER),
        "ARP announcement": arp(1, asked=ADDRESS),
        "ARP probe": arp(1, sender="0.0.0.0", asked=ADDRESS),
        "UDP": ether(ip(udp())),
        "UDP to all": ether(ip(udp(), target="10.0.0.255"), target=ALL),
        "UDP in fragments, the first": ether(ip(long[:800], fragment=0x2000)),
        "UDP in fragments, the last": ether(ip(long[800:], fragment=100)),
        "TCP": ether(ip(tcp(), TCP)),
        "TCP to elsewhere by the gateway": ether(ip(tcp(addresses=(ADDRESS, "192.0.2.1")), TCP, target="192.0.2.1"), target=GATEWAY),
        "ping": ether(ip(icmp(), ICMP)),
        "ICMP unreachable": ether(ip(icmp(3, 3), ICMP)),
        "IGMP report": ether(ip(icmp(0x16, 0, packed("239.1.1.1")), IGMP, target="239.1.1.1", options=ra_option, ttl=1), target="01:00:5e:01:01:01"),
        "mDNS": ether(ip(udp(5353, 5353), target="224.0.0.251"), target="01:00:5e:00:00:fb"),
        "neighbour solicitation": ether6(neighbour(135, OTHERS6, option=link_option(1))),
        "neighbour solicitation from the link-local address": ether6(neighbour(135, OTHERS6, LINK_LOCAL, option=link_option(1))),
        "neighbour advertisement": ether6(neighbour(136, ADDRESS6, option=link_option(2))),
        "neighbour advertisement of the link-local address": ether6(neighbour(136, LINK_LOCAL, LINK_LOCAL, option=link_option(2))),
        "duplicate address detection": ether6(neighbour(135, ADDRESS6, "::", "ff02::1:ff00:11")),
        "duplicate address detection with a nonce": ether6(neighbour(135, ADDRESS6, "::", "ff02::1:ff00:11", b"\x0e\1nonce!")),
        "router solicitation": ether6(ip6(icmp6(133, b"\0\0\0\0", LINK_LOCAL, "ff02::2"), source=LINK_LOCAL, target="ff02::2")),
        "listener report": ether6(mld(143)),
        "ping of IPv6": ether6(ip6(icmp6(128)), target=OTHER),
        "packet too big": ether6(ip6(icmp6(2)), target=OTHER),
        "UDP of IPv6": ether6(ip6(udp(addresses=(ADDRESS6, OTHERS6)), UDP), target=OTHER),
        "UDP of IPv6 in fragments": ether6(ip6(fragment6(UDP, 0, 1) + long[:800], 44), target=OTHER),
        "UDP of IPv6 in fragments, the last": ether6(ip6(fragment6(UDP, 100, 0) + long[800:], 44), target=OTHER),
        "TCP of IPv6": ether6(ip6(tcp(addresses=(ADDRESS6, OTHERS6)), TCP), target=OTHER),
    }  # fmt: skip


def hostile():
    plain = ether(ip(udp()))
    first, last = ra()[:24], ra()[24:]
    return {
        # another's hardware address
        "another's MAC": ether(ip(udp()), source=OTHER, target=ALL),
        "the gateway's MAC": ether(ip(udp()), source=GATEWAY, target=ALL),
        "a MAC that nobody has": ether(ip(udp()), source=NOBODY, target=ALL),
        "another's MAC and address": ether(ip(udp(), source=OTHERS), source=OTHER, target=ALL),
        "a source MAC of a group": ether(ip(udp()), source="01:00:5e:00:00:01"),
        "all as source MAC": ether(ip(udp()), source=ALL),
        # ARP
        "ARP as the gateway": arp(2, sender=THE_GATEWAY, target=ALL),
        "ARP announcement of the gateway": arp(1, sender=THE_GATEWAY, asked=THE_GATEWAY),
        "ARP as Dom0": arp(2, sender=DOM0),
        "ARP as another, to one alone": arp(2, sender=OTHERS, target=GATEWAY),
        "ARP with another's MAC inside": arp(2, sender_mac=OTHER),
        "ARP probe for another's address": arp(1, sender="0.0.0.0", asked=OTHERS),
        "ARP reply from no address": arp(2, sender="0.0.0.0", asked=ADDRESS),
        "ARP of another kind of hardware": arp(htype=6),
        "ARP, inverse": arp(8),
        "RARP": ether(arp(3)[14:42], 0x8035, target=ALL),
        "ARP in a VLAN": vlan(arp(), (0x8100, 10)),
        # IPv4
        "another's address": ether(ip(udp(), source=OTHERS)),
        "the gateway's address": ether(ip(icmp(), ICMP, source=THE_GATEWAY), target=OTHER),
        "Dom0's address": ether(ip(tcp(addresses=(DOM0, OTHERS)), TCP, source=DOM0)),
        "an address of the internet": ether(ip(udp(), source="192.0.2.7"), target=GATEWAY),
        "a source of all": ether(ip(udp(), source="255.255.255.255")),
        "a source of the network's all": ether(ip(udp(), source="10.0.0.255")),
        "a source of a group": ether(ip(udp(), source="224.0.0.5")),
        "no source": ether(ip(udp(), source="0.0.0.0")),
        "DHCP request, with no prefix declared": ether(ip(udp(68, 67, dhcp()), source="0.0.0.0", target="255.255.255.255"), target=ALL),
        "DHCP offer": ether(ip(udp(67, 68, dhcp(2)), target="255.255.255.255"), target=ALL),
        "DHCP offer from another port": ether(ip(udp(1067, 68, dhcp(2)), target="255.255.255.255"), target=ALL),
        "DHCP offer to one alone": ether(ip(udp(67, 68, dhcp(2)), target=DOM0), target=OTHER),
        "DHCP offer in fragments": ether(ip(udp(67, 68, dhcp(2))[:120], target="255.255.255.255", fragment=0x2000), target=ALL),
        "DHCP relay": ether(ip(udp(67, 67, dhcp(1)), target="10.0.0.255"), target=ALL),
        "ICMP redirect": ether(ip(icmp(5, 1, packed(ADDRESS) + ip(udp(), source=OTHERS, target="192.0.2.1")), ICMP)),
        "ICMP router advertisement": ether(ip(icmp(9, 0, b"\1\2\7\x08" + packed(ADDRESS) + b"\0" * 4), ICMP, target="224.0.0.1"), target="01:00:5e:00:00:01"),
        "IGMP query": ether(ip(icmp(0x11, 10, b"\0" * 4), IGMP, target="224.0.0.1", ttl=1), target="01:00:5e:00:00:01"),
        "a source route": ether(ip(udp(), options=b"\x83\7\4" + packed("10.0.0.254") + b"\0")),
        "a source route, strict": ether(ip(tcp(), TCP, options=b"\x89\7\4" + packed("10.0.0.254") + b"\0")),
        "VRRP": ether(ip(b"\x31\1\x64\1" + b"\0" * 12, 112, target="224.0.0.18", ttl=255), target="01:00:5e:00:00:12"),
        "OSPF": ether(ip(b"\2\1" + b"\0" * 42, 89, target="224.0.0.5", ttl=1), target="01:00:5e:00:00:05"),
        "RIP": ether(ip(udp(520, 520, b"\2\2\0\0" + b"\0" * 20), target="224.0.0.9"), target="01:00:5e:00:00:09"),
        "HSRP": ether(ip(udp(1985, 1985, b"\0" * 20), target="224.0.0.2"), target="01:00:5e:00:00:02"),
        "IPv6 in IPv4": ether(ip(ip6(icmp6(128)), 41)),
        "IPv4 in IPv4": ether(ip(ip(udp()), 4)),
        "GRE": ether(ip(b"\0\0\x08\0" + ip(udp()), 47)),
        # IPv6
        "another's IPv6 address": ether6(ip6(udp(addresses=(OTHERS6, ADDRESS6)), UDP, OTHERS6), target=GATEWAY),
        "Dom0's IPv6 address": ether6(ip6(icmp6(128, source=DOM0_6), source=DOM0_6), target=OTHER),
        "another's link-local address": ether6(ip6(icmp6(128, source="fe80::216:3eff:fe00:2"), source="fe80::216:3eff:fe00:2")),
        "no IPv6 source": ether6(ip6(udp(addresses=("::", OTHERS6)), UDP, "::"), target=OTHER),
        "a source in ff02::": ether6(ip6(icmp6(128, source="ff02::1"), source="ff02::1")),
        "router advertisement": ether6(ip6(ra(), source=LINK_LOCAL, target="ff02::1")),
        "router advertisement to one alone": ether6(ip6(ra(target=OTHERS6), source=LINK_LOCAL), target=OTHER),
        "router advertisement as the gateway": ether6(ip6(ra(THE_GATEWAY6), source=THE_GATEWAY6, target="ff02::1")),
        "router advertisement behind hop-by-hop options": ether6(ip6(options_header(ICMP6) + ra(), 0, LINK_LOCAL, "ff02::1")),
        "router advertisement behind destination options": ether6(ip6(options_header(ICMP6) + ra(), 60, LINK_LOCAL, "ff02::1")),
        "router advertisement behind both": ether6(ip6(options_header(60) + options_header(ICMP6) + ra(), 0, LINK_LOCAL, "ff02::1")),
        "router advertisement behind a routing header": ether6(ip6(bytes([ICMP6, 0, 4, 0]) + b"\0" * 4 + ra(), 43, LINK_LOCAL, "ff02::1")),
        "router advertisement in fragments": ether6(ip6(fragment6(ICMP6, 0, 1) + first, 44, LINK_LOCAL, "ff02::1")),
        "router advertisement in fragments, the last": ether6(ip6(fragment6(ICMP6, 3, 0) + last, 44, LINK_LOCAL, "ff02::1")),
        "router advertisement as one fragment": ether6(ip6(fragment6(ICMP6, 0, 0) + ra(), 44, LINK_LOCAL, "ff02::1")),
        "router advertisement in fragments behind options": ether6(ip6(options_header(44) + fragment6(ICMP6, 3, 0) + last, 0, LINK_LOCAL, "ff02::1")),
        "router advertisement behind the first fragment": ether6(ip6(fragment6(60, 0, 1) + options_header(ICMP6), 44, LINK_LOCAL, "ff02::1")),
        "neighbour advertisement of the gateway": ether6(neighbour(136, THE_GATEWAY6, option=link_option(2))),
        "neighbour advertisement of Dom0": ether6(neighbour(136, DOM0_6, option=link_option(2))),
        "neighbour advertisement with another's MAC": ether6(neighbour(136, ADDRESS6, option=link_option(2, OTHER))),
        "neighbour advertisement with a second option": ether6(neighbour(136, ADDRESS6, option=b"\x0e\1nonce!", more=link_option(2, OTHER))),
        "neighbour advertisement as a router": ether6(neighbour(136, ADDRESS6, option=link_option(2), flags=0xA0000000)),
        "neighbour advertisement from another's address": ether6(neighbour(136, ADDRESS6, OTHERS6, option=link_option(2))),
        "neighbour solicitation with another's MAC": ether6(neighbour(135, OTHERS6, option=link_option(1, OTHER))),
        "duplicate address detection of another's address": ether6(neighbour(135, OTHERS6, "::", "ff02::1:ff00:12")),
        "neighbour advertisement behind options": ether6(ip6(options_header(ICMP6) + icmp6(136, b"\x20\0\0\0" + packed(ADDRESS6)), 0)),
        "IPv6 redirect": ether6(ip6(icmp6(137, b"\0" * 4 + packed(LINK_LOCAL) + packed("2001:db8::1"), LINK_LOCAL), source=LINK_LOCAL), target=OTHER),
        "DHCPv6 advertise": ether6(ip6(udp(547, 546, b"\2\0\0\1", (LINK_LOCAL, OTHERS6)), UDP, LINK_LOCAL), target=OTHER),
        "DHCPv6 advertise from another port": ether6(ip6(udp(1547, 546, b"\2\0\0\1", (LINK_LOCAL, OTHERS6)), UDP, LINK_LOCAL), target=OTHER),
        "DHCPv6 advertise in fragments": ether6(ip6(fragment6(UDP, 0, 1) + udp(547, 546, b"\2" * 64), 44), target=OTHER),
        "a routing header": ether6(ip6(bytes([UDP, 2, 0, 1]) + b"\0" * 4 + packed(DOM0_6) + udp(), 43), target=OTHER),
        "listener query": ether6(mld(130)),
        "listener query without options": ether6(mld(130, header=False)),
        "RIPng": ether6(ip6(udp(521, 521, b"\2\1\0\0", (LINK_LOCAL, "ff02::9")), UDP, LINK_LOCAL, "ff02::9")),
        "OSPF of IPv6": ether6(ip6(b"\3\1" + b"\0" * 34, 89, LINK_LOCAL, "ff02::5")),
        "IPv4 in IPv6": ether6(ip6(ip(udp()), 4), target=OTHER),
        # what a bridge or a switch listens to
        "a tag of a VLAN": vlan(plain, (0x8100, 10)),
        "a tag of no VLAN": vlan(plain, (0x8100, 0)),
        "two tags": vlan(plain, (0x88A8, 10), (0x8100, 20)),
        "two tags of one kind": vlan(plain, (0x8100, 1), (0x8100, 20)),
        "BPDU": ether(b"\x42\x42\3" + b"\0" * 35, 38, target="01:80:c2:00:00:00"),
        "PVST+": ether(b"\xaa\xaa\3\0\0\x0c\1\x0b" + b"\0" * 35, 50, target="01:00:0c:cc:cc:cd"),
        "CDP": ether(b"\xaa\xaa\3\0\0\x0c\x20\0" + b"\2\xb4\0\0", 12, target="01:00:0c:cc:cc:cc"),
        "PAUSE": ether(b"\0\1\xff\xff", 0x8808, target="01:80:c2:00:00:01"),
        "PAUSE to one alone": ether(b"\0\1\xff\xff", 0x8808, target=OTHER),
        "LACP": ether(b"\1\1" + b"\0" * 108, 0x8809, target="01:80:c2:00:00:02"),
        "EAPOL": ether(b"\1\1\0\0", 0x888E, target="01:80:c2:00:00:03"),
        "EAPOL to one alone": ether(b"\1\1\0\0", 0x888E, target=GATEWAY),
        "LLDP": ether(b"\2\7\4" + mac(GUEST) + b"\0\0", 0x88CC, target="01:80:c2:00:00:0e"),
        "LLDP to all": ether(b"\2\7\4" + mac(GUEST) + b"\0\0", 0x88CC, target=ALL),
        "GVRP": ether(b"\x42\x42\3\0\1", 5, target="01:80:c2:00:00:21"),
        "PPPoE discovery": ether(b"\x11\x09\0\0\0\0", 0x8863, target=ALL),
        "PPPoE session": ether(b"\x11\0\0\1\0\x16\0\x21" + ip(udp()), 0x8864),
        "MPLS": ether(b"\0\1\1\x40" + ip(udp()), 0x8847),
        "IPX": ether(b"\xff\xff\0\x22\0\x11" + b"\0" * 30, 0x8137, target=ALL),
        "LLC": ether(b"\xe0\xe0\3" + b"\0" * 33, 36, target=ALL),
        "AoE": ether(b"\x10\0\0\0\0\0\0\0\0\0", 0x88A2, target=ALL),
        "wake on LAN": ether(b"\xff" * 6 + mac(OTHER) * 16, 0x0842, target=ALL),
        "IPv4 that calls itself IPv6": ether6(ip(udp()), target=OTHER),
        "IPv6 that calls itself IPv4": ether(ip6(icmp6(128))),
    }  # fmt: skip


def of_a_router():
    """Return further frames that pass, and that don't, with prefixes declared (BEHIND, BEHIND6)."""
    inside = "fd08:0:0:7::5"
    return {
        "from an address behind it": ether(ip(udp(), source="10.8.0.77")),
        "ARP for an address behind it": arp(2, sender="10.8.0.77"),
        "from an IPv6 address behind it": ether6(ip6(udp(addresses=(inside, OTHERS6)), UDP, inside), target=OTHER),
        "neighbour advertisement of an address behind it": ether6(neighbour(136, inside, option=link_option(2), flags=0xA0000000)),
        "DHCP request": ether(ip(udp(68, 67, dhcp()), source="0.0.0.0", target="255.255.255.255"), target=ALL),
    }, {
        "from an address beyond": ether(ip(udp(), source="10.8.1.1")),
        "from an IPv6 address beyond": ether6(ip6(udp(), UDP, "fd08:0:0:8::5"), target=OTHER),
        "neighbour advertisement of an address beyond": ether6(neighbour(136, "fd08:0:0:8::5", option=link_option(2))),
        "DHCP request for another's MAC": ether(ip(udp(68, 67, dhcp(chaddr=OTHER)), source="0.0.0.0", target="255.255.255.255"), target=ALL),
        "router advertisement": ether6(ip6(ra(), source=LINK_LOCAL, target="ff02::1")),
        "DHCP offer": ether(ip(udp(67, 68, dhcp(2)), target="255.255.255.255"), target=ALL),
    }  # fmt: skip

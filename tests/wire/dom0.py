"""In Dom0: make a guest (tests/guests/service.c) at a real vif send frames, and see what passes. JSON on stdin and stdout.

It imports only Python's standard library, because it is sent there as text.
"""

import json
import select
import socket
import struct
import sys
import time

WITHIN = 10
ATTEMPTS = 3


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pulling(frame, guest, here, address, number):
    """Return the datagram that makes the guest send ``frame``; its answer comes to the same port."""
    udp = struct.pack("!HHHH", 20000 + number, 9, 8 + len(frame), 0) + frame
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes(map(int, address.split(".")))
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac(guest) + mac(here) + b"\x08\x00" + head + udp


class Places:
    def __init__(self, bridge, vif, others):
        self.sockets = {}
        for name in (bridge, vif, *others):
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            end.bind((name, 0))
            end.setblocking(False)
            self.sockets[name] = end
        self.bridge, self.vif = bridge, vif

    def seen(self, name):
        """Return (frame, whether Dom0 sends it there) for everything that has arrived."""
        while True:
            try:
                data, (_device, _kind, way, *_rest) = self.sockets[name].recvfrom(65536)
            except BlockingIOError:
                return
            yield data, way == socket.PACKET_OUTGOING

    def pull(self, frame, guest, here, address, number, mark):
        """Return whether the guest sent it, and where else it turned up. ``mark``: in its payload, if Dom0 may route it."""
        for name in self.sockets:
            for _frame in self.seen(name):
                pass
        sent, places = False, set()
        for _attempt in range(ATTEMPTS):
            self.sockets[self.bridge].send(pulling(frame, guest, here, address, number))
            until, answered = time.monotonic() + WITHIN, False
            while not answered and time.monotonic() < until:
                select.select([self.sockets[self.bridge]], [], [], 0.5)
                for data, _out in self.seen(self.bridge):
                    if is_answer(data, here, number):
                        answered = True
                    elif data[:12] == frame[:12]:
                        places.add(self.bridge)
            if answered:
                break
        else:
            raise SystemExit(f"the guest does not answer for frame {number}")
        for name in self.sockets:
            for data, out in self.seen(name):
                if is_answer(data, here, number):
                    continue
                if mark and mark in data and out:
                    places.add(f"{name} {leaving(data)}")
                elif data[:12] == frame[:12]:
                    sent = sent or (name == self.vif and not out)
                    places |= {name} - {self.vif}
        return [sent, sorted(places)]


def leaving(frame):
    """Return a frame's MAC and address, or its VLAN's number."""
    if frame[12:14] == b"\x81\x00":
        return f"{frame[6:12].hex(':')} vlan {struct.unpack('!H', frame[14:16])[0] & 0xFFF}"
    return f"{frame[6:12].hex(':')} {socket.inet_ntoa(frame[26:30])}"


def is_answer(data, here, number):
    return data[:6] == mac(here) and data[23:24] == b"\x11" and data[36:38] == struct.pack("!H", 20000 + number)


def main():
    asked = json.load(sys.stdin)
    places = Places(asked["bridge"], asked["vif"], asked["others"])
    with open(f"/sys/class/net/{asked['bridge']}/address", encoding="ascii") as file:
        here = file.read().strip()
    told, mark = {}, bytes.fromhex(asked.get("mark", ""))
    for number, (name, frame) in enumerate(asked["frames"].items()):
        told[name] = places.pull(bytes.fromhex(frame), asked["mac"], here, asked["address"], number, mark)
    json.dump(told, sys.stdout)


main()

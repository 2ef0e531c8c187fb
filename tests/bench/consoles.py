"""What a guest costs that writes to its console without end: Dom0's disk and console file system, and another guest's latency.

    python -m tests.bench.consoles [--seconds 600]          (after make site; LAB_* choose the lab)

Prints two tables in Markdown. Fails if the logs grow beyond their size, or reach Dom0's disk: that is no matter of speed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import time
import urllib.request

from tests.guests import service
from tests.integration.conftest import PORTS, Dom0, wait_until

WEB = f"http://127.0.0.1:{PORTS['HTTP']}/"
NAME, KERNEL, CONSOLES = "bench-flood", "/root/bench-flood.xen", "/var/log/xen/console"
DEFINITION = f'name = "{NAME}"\ntype = "pvh"\nkernel = "{KERNEL}"\nmemory = 16\nvcpus = 1\ncmdline = "--mode=flood"\n'
# KiB of Dom0's disk, of the console file system, its size, the bytes that xenconsoled has written, and the longest log.
LOOK = (
    f"df -k --output=used / | tail -n 1; df -k --output=used,size {CONSOLES} | tail -n 1;"
    " awk '/^wchar/ {print $2}' /proc/$(pgrep -x xenconsoled)/io;"
    f" (echo 0; stat -c %s {CONSOLES}/*.log) | sort -n | tail -n 1"
)
# Sent to xenconsoled by the guest; its terminal sequences must not reach a log.
RAW = f"grep -c $(printf '\\033') {CONSOLES}/guest-{NAME}.log || true"
# Journals and other programs of Dom0 write meanwhile.
OTHERS_KIB = 8 << 10


def look(dom0: Dom0) -> tuple[int, ...]:
    """Look as soon as Dom0 answers: on a busy controller its sshd may miss ssh's own time."""
    words = wait_until(lambda: dom0(LOOK, check=False).split(), 300, "an answer of Dom0")
    return tuple(map(int, words))


def latencies(seconds: float) -> list[float]:
    """Ask the web server every 100 ms. Return the milliseconds of each answer; one without an answer counts as 5 s."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(WEB, timeout=5) as answer:
                answer.read()
            found.append((time.monotonic() - began) * 1000)
        except OSError:
            found.append(5000.0)
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    return found


def row(what: str, found: list[float]) -> str:
    parts = statistics.quantiles(found, n=100)
    return f"| {what} | {len(found)} | {parts[49]:.0f} ms | {parts[94]:.0f} ms | {max(found):.0f} ms |"


def flood(dom0: Dom0, seconds: int) -> tuple[list[float], list[tuple[int, ...]], float]:
    """Return latencies and looks while the guest writes, and the seconds in which it did."""
    dom0(f"cat >/root/{NAME}.cfg", data=DEFINITION)
    dom0(f"xl create /root/{NAME}.cfg")
    log = f"test -s {CONSOLES}/guest-{NAME}.log && echo yes; true"
    wait_until(lambda: dom0(log) == "yes\n", 60, "the first line of the guest that floods its console")
    began = time.monotonic()
    looks, found = [look(dom0)], []
    while time.monotonic() - began < seconds:
        found += latencies(5)
        looks.append(look(dom0))
    return found, looks, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    dom0 = Dom0()
    subprocess.run([*dom0.command, f"cat >{KERNEL}"], input=service(), check=True)
    limit = int(re.findall(r"unikernels-consoles (\d+)", dom0("cat /etc/systemd/system/unikernels-consoles.service"))[0])
    quiet, before = latencies(min(seconds, 60)), look(dom0)
    try:
        loud, looks, took = flood(dom0, seconds)
        escapes = int(dom0(RAW).strip())
    finally:
        dom0(f"xl destroy {NAME}; rm -f {KERNEL} /root/{NAME}.cfg {CONSOLES}/guest-{NAME}.log*", check=False)
    written = (looks[-1][3] - looks[0][3]) / took
    disk, console = max(one[0] for one in looks) - before[0], max(one[1] for one in looks)
    print("| the web server while another guest | requests | median | 95 % | longest |\n|---|---|---|---|---|")
    print(row("is silent", quiet) + "\n" + row(f"floods its console for {took:.0f} s", loud))
    print("\n| what a flood fills | most | bound |\n|---|---|---|")
    print(f"| all consoles ({written / 1000:.0f} KB/s written) | {console / 1024:.1f} MiB | {before[2] / 1024:.0f} MiB |")
    print(f"| one log before its rotation | {max(one[4] for one in looks) / 1024:.0f} KiB | {limit} KiB and a minute's writes |")
    print(f"| Dom0's disk | {disk / 1024:.1f} MiB | 0 |\n| lines with an escape sequence in the log | {escapes} | 0 |")
    assert console <= before[2] and disk < OTHERS_KIB and escapes == 0


if __name__ == "__main__":
    main()

"""Query the lab's web server and resolver until the time is over; fail if one was silent: tests/soak.py --minutes 60"""

# SPDX-License-Identifier: GPL-3.0-or-later

import argparse
import os
import subprocess
import sys
import time
import urllib.request

WEB = f"http://127.0.0.1:{os.environ.get('LAB_HTTP_PORT', '8080')}/"
DIG = ["dig", "+short", "+time=5", "+tries=1", "@127.0.0.1", "-p", os.environ.get("LAB_DNS_PORT", "5353"), "www.lab.example", "A"]


def web():
    try:
        with urllib.request.urlopen(WEB, timeout=10) as answer:
            return answer.status == 200 and b"It answers" in answer.read()
    except OSError:
        return False


def dns():
    return subprocess.run(DIG, capture_output=True, text=True, check=False).stdout.strip() == "10.0.2.101"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    end = time.monotonic() + parser.parse_args().minutes * 60
    asked, silent = 0, []
    while time.monotonic() < end:
        for name, answers in (("web", web), ("dns", dns)):
            asked += 1
            if not answers():
                silent.append(name)
                print(f"{time.strftime('%H:%M:%S')} {name} did not answer", flush=True)
    print(f"{asked} requests, {len(silent)} without an answer")
    sys.exit(bool(silent) or not asked)


if __name__ == "__main__":
    main()

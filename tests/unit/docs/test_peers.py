"""tests/bench/peers.py, as far as it needs no Xen: each way has the same job, and the tables have a row for each."""

# SPDX-License-Identifier: GPL-3.0-or-later

import subprocess

import pytest
import yaml

from tests.bench import peers

JOB = {"peer00": 12, "peer01": 8}


@pytest.mark.parametrize("state", ["running", "absent"])
def test_each_way_has_every_domain_and_is_a_play(tmp_path, state):
    play = []
    for name, way in peers.WAYS.items():
        tasks = way(JOB, state, tmp_path)
        assert all(domain in str(tasks) for domain in JOB), name
        play += [task for task in tasks if "community.libvirt.virt" not in task]
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": play}]))
    done = subprocess.run(["ansible-playbook", "--syntax-check", str(book)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_libvirt_and_xl_get_the_same_domain(tmp_path):
    assert "<memory unit='MiB'>8</memory>" in peers.XML.format(name="peer01", memory=8)
    assert "memory = 8\nmaxmem = 8\n" in peers.XL.format(name="peer01", memory=8)
    assert peers.KERNEL in peers.XML and peers.KERNEL in peers.XL


def test_the_tables_have_a_ratio_for_each_way_and_name_what_failed(capsys):
    results = {}
    for factor, way in enumerate(peers.WAYS, 1):
        runs = {step: peers.Run(2.0 * factor, 3, 40, 0, failed=factor == 2 and step == "create") for step in peers.STEPS}
        results[way, 1] = {**runs, "changed": factor == 1, "restored": True, "noticed": "not noticed", "removed": True}
    peers.tables(results, (1,))
    printed = capsys.readouterr().out
    assert "| `community.libvirt.virt` | 4.0 s = **2.0 x**, 3, 40, **failed** |" in printed
    assert "| `xen_domains` | 2.0 s, 3, 40 |" in printed and "**3.0 x**" in printed
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    tables = [rows[:5], rows[5:]]
    assert [len({line.count("|") for line in table}) for table in tables] == [1, 1], "every row has the table's columns"

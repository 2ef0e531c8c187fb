"""Which CPUs a machine has, from what Xen and Linux show."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.cpus import xl_topology
from ansible_collections.unikernels.xen.plugins.module_utils.host.cpu_topology import rows_of_linux, topology
from hypothesis import given
from hypothesis import strategies as st

# Xen 4.17 on two sockets of two cores with two threads each; the numbers of NUMA's own table look like a CPU's.
XL_INFO = """max_cpu_id             : 7
cpu_topology           :
cpu:    core    socket     node
  0:       0        0        0
  1:       0        0        0
  2:       1        0        0
  3:       1        0        0
  4:       0        1        1
  5:       0        1        1
  6:       1        1        1
  7:       1        1        1
device topology        :
device           node
No device topology data available
numa_info              :
node:    memsize    memfree    distances
   0:      2559       1244      10
  12:      2559       1244      10
xen_major              : 4
"""
FACTS = {"cpus_on": "0-7", "cpus_without_smt": "0,2,4,6", "cpus_of_nodes": {"0": "0-3", "1": "4-7"}}


def test_cpus_as_xen_shows_them():
    assert topology(xl_topology(XL_INFO)) == FACTS


def test_cpus_as_linux_shows_them(tmp_path):
    """Siblings are numbered behind the cores, as most firmware does it; CPU 3 is off, so its files are not there."""
    files = {"cpu/online": "0-2,4-7", "node/node0/cpulist": "0-1,4-5", "node/node1/cpulist": "2,6-7"}
    for cpu in (0, 1, 2, 4, 5, 6):
        files[f"cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{cpu % 4},{cpu % 4 + 4}"
    files["cpu/cpu7/topology/thread_siblings_list"] = "7"
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert topology(rows_of_linux(str(tmp_path))) == {
        "cpus_on": "0-2,4-7",
        "cpus_without_smt": "0-2,7",
        "cpus_of_nodes": {"0": "0-1,4-5", "1": "2,6-7"},
    }


def test_a_system_without_these_files(tmp_path):
    assert topology(rows_of_linux(str(tmp_path))) == {"cpus_on": "", "cpus_without_smt": "", "cpus_of_nodes": {}}
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/online").write_text("0-1\n")
    assert topology(rows_of_linux(str(tmp_path)))["cpus_without_smt"] == "0-1"


@pytest.mark.parametrize("text", ["", "cpu_topology           :\n", "cpu_topology :\ncpu: core socket node\nnuma_info :\n"])
def test_no_topology(text):
    assert xl_topology(text) == []


@given(st.text(alphabet="0123456789: \ncpu_topology", max_size=80))
def test_any_text_has_some_rows_or_none(text):
    topology(xl_topology(text))

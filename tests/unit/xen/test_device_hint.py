"""A unikernel that dies for lack of a disk prints its number; the user declared a vdev."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.xen.watch import device_hint


@pytest.mark.parametrize(
    ("lines", "hint"),
    [
        (["Fatal error: exception Failure: no block device 51728", "solo5_exit(2) called"], " (device 51728 is vdev: xvdb)"),
        (["51712", "51952"], " (device 51712 is vdev: xvda) (device 51952 is vdev: xvdp)"),
        (["51728 51728"], " (device 51728 is vdev: xvdb)"),
        (["port 51729", "pid 151728", "517280", "51968", "51700", "listening on port 80"], ""),
        (["51728", *["later"] * 5], ""),
        ([], ""),
    ],
)
def test_the_number_of_a_disk_is_named(lines, hint):
    assert device_hint(lines) == hint

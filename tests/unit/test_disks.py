"""Files that become disks, made for real in a folder."""

import os
import stat

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Origin
from ansible_collections.unikernels.xen.plugins.module_utils.xen import disks
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 4096), (4096, 4096), (5000, 8192)])
def test_a_copy_has_whole_blocks(tmp_path, size, expected):
    """mirage-block-xen sees nothing of a last block that is not whole."""
    source, path = tmp_path / "source", tmp_path / "disk"
    source.write_bytes(b"x" * size)
    disks.make(Origin(str(path), "raw", source=str(source)))
    assert path.read_bytes() == b"x" * size + b"\0" * (expected - size)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["disk", "source"]


def test_what_is_there_is_left_alone(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"data")
    with pytest.raises(ToolstackError, match="was left alone"):
        disks.make(Origin(str(path), "raw", size=4096))
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("path", ["link/x-test-disk", "link/../dev/x-test-disk", "link/no/x-test-disk"])
def test_nothing_is_created_or_removed_below_dev(tmp_path, path):
    (tmp_path / "link").symlink_to("/dev")
    path = str(tmp_path / path)
    with pytest.raises(ToolstackError, match="is below /dev"):
        disks.make(Origin(path, "raw", size=4096))
    with pytest.raises(ToolstackError, match="is below /dev"):
        disks.remove(path)
    assert not os.path.exists("/dev/x-test-disk")

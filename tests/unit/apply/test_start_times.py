"""How long a domain runs is known after a replacement too, although libxl has one record for both of its domains."""

import pytest

from .conftest import module


@pytest.fixture
def times(xen):
    return module("xen.start_times").of


def serve(xen, kernel, **options):
    declared = {"name": "www", "kernel": kernel, "memory": 16, "settle": 0, "shutdown_timeout": 0, **options}
    (result,) = module("apply.converge").converge([declared], False, lambda line: None)
    return result


def domid(xen):
    return xen.domains["www"]["domid"]


@pytest.mark.parametrize("update", ["standby", "recreate"])
def test_after_a_replacement_the_new_domain_has_its_own_time_and_libxl_its_record(xen, kernel, times, update):
    assert not serve(xen, kernel)["failed"]
    former = domid(xen)
    began = times([former])[former]
    assert not serve(xen, kernel, memory=20, update=update)["failed"]
    assert domid(xen) != former and times([former, domid(xen)])[domid(xen)] > began
    record = f"/vm/{xen.domains['www']['config']['uuid']}"
    kept = xen.xenstore().read([f"{record}/{key}" for key in ("uuid", "start_time")])
    assert kept == [xen.domains["www"]["config"]["uuid"], f"{times([domid(xen)])[domid(xen)]:.2f}"]


def test_one_that_is_put_back_has_the_time_of_its_own_start(xen, kernel, times):
    assert not serve(xen, kernel)["failed"]
    former = domid(xen)
    began = times([former])
    xen.on_unpause["www~next"] = xen.on_unpause["www"] = lambda record: record.update(
        {"state": "shutdown", "reason": "crash"} if record["domid"] != former else {"state": "running"}
    )
    result = serve(xen, kernel, memory=20, update="standby")
    assert result["failed"] and domid(xen) == former
    assert times([former]) == began
    record = f"/vm/{xen.domains['www']['config']['uuid']}"
    assert xen.xenstore().read([f"{record}/start_time"]) == [f"{began[former]:.2f}"]


def test_a_domain_that_was_alone_leaves_nothing_behind(xen, kernel):
    assert not serve(xen, kernel)["failed"]
    assert not serve(xen, kernel, state="absent")["failed"]
    assert not [path for path in xen.store if path.startswith(("/vm/", "/local/domain/"))]


def test_nothing_fails_for_want_of_a_time(xen, kernel, monkeypatch):
    def refused(*_arguments):
        raise module("xen.xl").ToolstackError("xenstored refused")

    monkeypatch.setattr(type(xen.xenstore()), "write", refused)
    assert not serve(xen, kernel)["failed"]
    assert not serve(xen, kernel, memory=20, update="standby")["failed"]

"""What a build may be asked for."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import (
    configure_refusal,
    range_refusal,
)


@pytest.mark.parametrize(
    ("config", "installed", "refused"),
    [
        ("(* mirage >= 4.9.0 & < 4.12.0 *)\nopen Mirage", "4.11.1", False),
        ("(* mirage >= 4.9.0 & < 4.12.0 *)", "4.12.0", True),
        ("(* mirage >= 4.10 *)", "4.9.9", True),
        ("open Mirage (* no range *)", "3.0.0", False),
    ],
)
def test_the_range_of_config_ml(config, installed, refused):
    assert bool(range_refusal(config, installed)) is refused


def test_options_for_configure():
    assert configure_refusal("--no-dhcp") is None
    assert configure_refusal("--target=hvt") and configure_refusal("-o x") and configure_refusal("x")
    assert configure_refusal("--tls=true") is None

"""One line out of a build's log."""

from ansible_collections.unikernels.xen.plugins.module_utils.image.mirage import reason


def test_the_last_steps_error_is_the_reason():
    assert (
        reason(["== a", "Error: old", "== b", "mirage: unknown option '--x'.", "Usage: mirage"])
        == "mirage: unknown option '--x'."
    )
    assert reason([]) == "it printed nothing"


def test_a_compilers_error_is_shown_whole():
    lines = ['File "unikernel.ml", line 3, characters 4-9:', "3 |     foo x", "        ^^^^^", "Error: Signature mismatch:"]
    lines += [
        "       Modules do not match:",
        "         sig val start : unit end",
        "       is not included in",
        "         sig val start : int end",
    ]
    assert reason([*lines, "make: *** [Makefile:24: build] Error 1"]).endswith(
        "Error: Signature mismatch: Modules do not match: sig val start : unit end is not included in sig val start : int end"
    )
    assert len(reason([*lines, *("       " + "x" * 100 for _ in range(100))])) < 2100


def test_a_package_that_does_not_exist_is_named():
    lines = [
        "opam-monorepo: [ERROR] Can't find all required versions.",
        "Selected: base.v0.16.0 ocaml.5.4.1",
        "- nosuch -> (problem)",
        "    No known implementations at all",
        "- dns -> (problem)",
        "    hello-xen dev requires >= 99",
        "    Rejected candidates:",
        "- ocaml -> ocaml.5.4.1",
    ]
    assert reason(lines) == (
        "opam-monorepo: [ERROR] Can't find all required versions."
        " (nosuch: No known implementations at all; dns: hello-xen dev requires >= 99 Rejected candidates:)"
    )


def test_apts_and_tars_reasons_are_named():
    apt = ["Reading package lists...", "E: Unable to locate package nosuch", "E: setup failed", "E: mmdebstrap failed to run"]
    assert reason(apt) == "E: Unable to locate package nosuch"
    tar = ["tar: way/planted: Cannot open: Permission denied", "tar: Exiting with failure status due to previous errors"]
    assert reason(tar) == "tar: way/planted: Cannot open: Permission denied"

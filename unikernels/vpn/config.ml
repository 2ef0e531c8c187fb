(* mirage >= 4.9.0 & < 4.12.0 *)
(* Configure step of the VPN endpoint: what it is built from. SPDX-License-Identifier: GPL-3.0-or-later *)
open Mirage

(* Before tcpip sees a frame: see bounded.ml and forward.ml. *)
let through packages modname device =
  let connect _ modname = function [ net ] -> code ~pos:__POS__ "%s.connect %s" modname net | _ -> assert false in
  impl ~packages ~connect modname (network @-> network) $ device

let network =
  default_network
  |> through [ package "tcpip" ~sublibs:[ "tcp" ]; package "mirage-mtime" ] "Bounded.Make"
  |> through [ package "tcpip" ~sublibs:[ "ipv4" ] ] "Forward.Make"

(* Addresses are boot arguments, --ipv4 and --ipv6: nobody has to be asked for them. *)
let stack =
  let ethernet = ethif network in
  let arp = arp ethernet in
  direct_stackv4v6 network ethernet arp (create_ipv4 ethernet arp) (create_ipv6 network ethernet)

(* 202 << 8: the number of xvda, as in Xen's docs/man/xen-vbd-interface.7. *)
let configuration = block_of_xenstore_id "51712"

(* No release of MirageVPN is in opam's archive: a commit, so that everyone builds the same. *)
let miragevpn = "git+https://github.com/robur-coop/miragevpn.git#f4043f0cda32602fc8d63c2d7eddd0b7d85d2dde"

let packages =
  [
    package "miragevpn" ~pin:miragevpn ~sublibs:[ "mirage" ];
    package "mirage-ptime";
    package "mirage-sleep";
    package "duration";
    (* Needed to build others: dune 3.24 has two definitions of one object file for solo5's system, "none". *)
    package ~libs:[] ~max:"3.24.0" "dune-configurator";
  ]

let () =
  register "vpn" [ main ~packages "Unikernel.Main" (stackv4v6 @-> block @-> job) $ stack $ configuration ]

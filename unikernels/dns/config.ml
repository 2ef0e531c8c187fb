(* mirage >= 4.9.0 & < 4.12.0 *)
(* Configure step of the DNS resolver: what it is built from. SPDX-License-Identifier: GPL-3.0-or-later *)
open Mirage

(* Before tcpip sees a frame: see bounded.ml. *)
let network =
  let connect _ modname = function [ net ] -> code ~pos:__POS__ "%s.connect %s" modname net | _ -> assert false in
  impl ~packages:[ package "tcpip" ~sublibs:[ "tcp" ]; package "mirage-mtime" ] ~connect "Bounded.Make" (network @-> network) $ default_network

(* Addresses are boot arguments, --ipv4 and --ipv6: nobody has to be asked for them. *)
let stack =
  let ethernet = ethif network in
  let arp = arp ethernet in
  direct_stackv4v6 network ethernet arp (create_ipv4 ethernet arp) (create_ipv6 network ethernet)

let packages =
  [
    package "dns-server" ~sublibs:[ "zone" ];
    package "dns-resolver" ~sublibs:[ "mirage" ];
    package "dns-stub" ~sublibs:[ "mirage" ];
    (* Signatures of secondaries: see secondaries.ml. *)
    package "dns-tsig";
    package "digestif";
    package "eqaf";
    (* The hashes of NSEC3: see answers.ml. *)
    package "dnssec";
    package "base64";
    (* DNS over TLS: see encrypted.ml. *)
    package "tls";
    package "tls-mirage";
    package "x509";
    package "mirage-crypto-rng";
    package "mirage-ptime";
    package "mirage-mtime";
    (* Only with --zone-block is there a disk: see disk.ml. *)
    package "mirage-block-xen" ~sublibs:[ "front" ];
    package "mirage-sleep";
    package "duration";
    (* Needed to build others: dune 3.24 has two definitions of one object file for solo5's system, "none". *)
    package ~libs:[] ~max:"3.24.0" "dune-configurator";
  ]

let () = register "dns" [ main ~packages "Unikernel.Main" (stackv4v6 @-> job) $ stack ]

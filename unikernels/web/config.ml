(* mirage >= 4.9.0 & < 4.12.0 *)
(* Configure step of the web server: what it is built from. SPDX-License-Identifier: GPL-3.0-or-later *)
open Mirage

(* Everything below htdocs/ becomes part of the image. *)
let content = crunch "htdocs"
let stack = generic_stackv4v6 default_network

let packages =
  [
    package "paf" ~sublibs:[ "mirage" ];
    package "h1";
    package "tls";
    package "x509";
    package "uri";
    package "magic-mime";
    (* Only with --https-port is there a disk: see disk.ml. *)
    package "mirage-block-xen" ~sublibs:[ "front" ];
  ]

let () = register "web" [ main ~packages "Unikernel.Main" (stackv4v6 @-> kv_ro @-> job) $ stack $ content ]

(* An OpenVPN-compatible endpoint on MirageVPN. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module Main (Stack : Tcpip.Stack.V4V6) (Disk : Mirage_block.S) = struct
  module Stack = Lifecycle.Make (Stack)
  module Syslog = Syslog.Make (Stack)
  module Monitor = Monitor.Make (Stack)
  module Vpn = Miragevpn_mirage.Server (Stack)

  (* A configuration of OpenVPN with keys and certificates in it, padded with zeros. *)
  let text disk =
    Disk.get_info disk >>= fun { Mirage_block.sector_size; size_sectors; _ } ->
    let sectors = List.init (Int64.to_int size_sectors) (fun _ -> Cstruct.create sector_size) in
    Disk.read disk 0L sectors >|= function
    | Error error -> Fmt.failwith "disk xvda cannot be read: %a" Disk.pp_error error
    | Ok () -> List.hd (String.split_on_char '\000' (Cstruct.to_string (Cstruct.concat sectors)))

  let start stack disk =
    Syslog.start stack;
    Monitor.start stack;
    text disk >>= fun text ->
    let string_of_file name = Error (`Msg (Fmt.str "file %s: there are no files here, put it in line" name)) in
    match Miragevpn.Config.parse_server ~string_of_file text with
    | Error (`Msg words) -> Fmt.failwith "the configuration on disk xvda: %s" words
    | Ok config ->
        let write ~ttl ~src dst protocol payload =
          Stack.IP.write (Stack.ip stack) ~ttl ~src:(Ipaddr.V4 src) (Ipaddr.V4 dst) protocol (fun _ -> 0) [ payload ] >|= function
          | Ok () -> ()
          | Error error -> Logs.debug (fun f -> f "not forwarded to %a: %a" Ipaddr.V4.pp dst Stack.IP.pp_error error)
        in
        let payloadv4_from_tunnel header payload =
          Forward.from_tunnel write header payload;
          Lwt.return_unit
        in
        let vpn = Vpn.connect ~payloadv4_from_tunnel config stack in
        if Forward.K.networks () <> [] then Forward.tunnel := Some (Miragevpn.Config.get Server config, Vpn.write vpn);
        Logs.app (fun f -> f "vpn: ready on port %d" (Miragevpn.server_bind_port config));
        Stack.until_shutdown ~patient:false
end

(* Secondaries hear of the zones when the unikernel starts, and of those that it transfers when they change: RFC 1996.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix
open Dns

let log = Logs.Src.create "notify"

module Log = (val Logs.src_log log)

let port = 53

(* After 1, 2, 4 ... seconds; a secondary that is down for longer than 17 minutes asks by itself, as the SOA has it. *)
let attempts = 10

(* Between the first ones, for there may be many zones. *)
let pace = Duration.of_ms 50

type sent = { secondary : Secondaries.t; request : Packet.t; mac : string option; answer : Packet.reply option Lwt.u }

(* By id. *)
let waiting : (int, sent) Hashtbl.t = Hashtbl.create 7

(* By zone: the serial that secondaries hear of, and of no older one any more. *)
let latest : (string, int32) Hashtbl.t = Hashtbl.create 7

(* An answer arrived at our port. *)
let answered address message =
  let message = Cstruct.to_string message in
  let accept id { secondary; request; mac; answer } packet =
    let is_signed =
      match (secondary.Secondaries.key, packet.Packet.tsig) with
      | None, _ -> true
      | Some _, None -> false
      | Some _, Some signature ->
          Result.is_ok (Secondaries.verified [ secondary ] ~now:(Mirage_ptime.now ()) ?mac packet signature message)
    in
    match Packet.reply_matches_request ~request packet with
    | Ok reply when is_signed ->
        Hashtbl.remove waiting id;
        Lwt.wakeup_later answer (Some reply)
    | _ -> ()
  in
  if String.length message >= Message.header then
    let id = String.get_uint16_be message 0 in
    match Hashtbl.find_opt waiting id with
    | Some sent when Ipaddr.compare sent.secondary.address address = 0 -> (
        match Packet.decode message with Ok packet -> accept id sent packet | Error _ -> ())
    | _ -> ()

module Make (Stack : Tcpip.Stack.V4V6) = struct
  let rec fresh_id () =
    let id = String.get_uint16_be (Mirage_crypto_rng.generate 2) 0 in
    if Hashtbl.mem waiting id then fresh_id () else id

  let rec send udp ({ Secondaries.address; key } as secondary) zone soa attempt =
    let id = fresh_id () and answered, answer = Lwt.wait () in
    let flags = Packet.Flags.singleton `Authoritative in
    let request = Packet.create (id, flags) (Packet.Question.create zone Rr_map.Soa) (`Notify (Some soa)) in
    let text, _ = Packet.encode `Udp request in
    let mac, texts =
      match key with
      | None -> (None, [ text ])
      | Some key ->
          let mac, texts = Secondaries.signed key ~now:(Mirage_ptime.now ()) [ text ] in
          (Some mac, texts)
    in
    Hashtbl.replace waiting id { secondary; request; mac; answer };
    let write text = Stack.UDP.write ~src_port:port ~dst:address ~dst_port:port udp (Cstruct.of_string text) >|= ignore in
    (* A dead neighbour has no address to send to for seconds: that is no reason to wait for longer. *)
    Lwt.async (fun () -> Lwt_list.iter_s write texts);
    let too_late = Mirage_sleep.ns (Duration.of_sec (1 lsl attempt)) >|= fun () -> None in
    Lwt.pick [ answered; too_late ] >>= fun answer ->
    Hashtbl.remove waiting id;
    let pp ppf () = Fmt.pf ppf "%a serial %lu to %a" Domain_name.pp zone soa.Soa.serial Ipaddr.pp address in
    match answer with
    | None when Hashtbl.find_opt latest (Domain_name.to_string zone) <> Some soa.Soa.serial -> Lwt.return_unit
    | None when attempt + 1 < attempts -> send udp secondary zone soa (attempt + 1)
    | None -> Lwt.return (Log.warn (fun f -> f "%a: no answer, or none with its key" pp ()))
    | Some (`Rcode_error (code, _, _)) -> Lwt.return (Log.warn (fun f -> f "%a: the answer is %a" pp () Rcode.pp code))
    | Some _ -> Lwt.return (Log.info (fun f -> f "%a: acknowledged" pp ()))

  (* Of these zones, once for each address. *)
  let announce udp secondaries zones =
    let add found ({ Secondaries.address; _ } as secondary) =
      if Secondaries.at found address = [] then secondary :: found else found
    in
    let secondaries = List.rev (List.fold_left add [] secondaries) in
    let notify (zone, soa) secondary =
      Hashtbl.replace latest (Domain_name.to_string zone) soa.Soa.serial;
      Lwt.async (fun () -> send udp secondary zone soa 0);
      Mirage_sleep.ns pace
    in
    Lwt.async (fun () -> Lwt_list.iter_s (fun zone -> Lwt_list.iter_s (notify zone) secondaries) zones)
end

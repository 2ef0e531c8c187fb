(* What a secondary asks for: a whole zone (AXFR, and IXFR answered with one), and with its key signed questions.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns

let log = Logs.Src.create "transfer"

module Log = (val Logs.src_log log)

(* Types of questions. *)
let ixfr = 251
let axfr = 252

(* A secondary is asking, or somebody for what only they get. All else is answered without a look at it here. *)
let concerns secondaries address message =
  match Message.question message with
  | Some (_, kind, _) -> kind = ixfr || kind = axfr || Secondaries.at secondaries address <> []
  | None -> false

(* The library leaves out the addresses of name servers below a delegation, without which nobody finds them. *)
let with_glue zone trie entries =
  let add host entries =
    let v4, v6 = if Domain_name.is_subdomain ~subdomain:host ~domain:zone then Dns_trie.lookup_glue host trie else (None, None) in
    let add key value entries =
      match value with None -> entries | Some value -> Name_rr_map.add (Domain_name.raw host) key value entries
    in
    add Rr_map.A v4 (add Rr_map.Aaaa v6 entries)
  in
  let delegated name records found =
    match Rr_map.find Rr_map.Ns records with
    | Some (_, hosts) when not (Domain_name.equal name zone) -> Domain_name.Host_set.fold add hosts found
    | _ -> found
  in
  Domain_name.Map.fold delegated entries entries

(* And the proofs at delegations of a signed zone. *)
let with_proofs zone trie entries =
  let add name nsec entries =
    match Domain_name.Map.find name entries with
    | Some records when Rr_map.mem Rr_map.Ns records && not (Domain_name.equal name zone) ->
        Name_rr_map.add name Rr_map.Nsec nsec entries
    | _ -> entries
  in
  Dns_trie.fold Rr_map.Nsec trie add entries

(* The messages, each with room for a signature of [room] bytes. *)
let zone_of trie packet ~room ~has =
  let zone = fst packet.Packet.question in
  let authoritative = Packet.Flags.singleton `Authoritative in
  let answer ?(flags = authoritative) data = Packet.create (fst packet.header, flags) packet.question data in
  let alone answer = [ fst (Packet.encode `Tcp answer) ] in
  match Dns_trie.entries zone trie with
  | Error _ -> alone (answer ~flags:Packet.Flags.empty (`Rcode_error (Rcode.NotAuth, Opcode.Query, None)))
  | Ok (soa, _) when Option.fold ~none:false ~some:(fun old -> not (Soa.newer ~old soa)) has ->
      alone (answer (`Ixfr_reply (soa, `Empty)))
  | Ok (soa, entries) ->
      let data = (soa, with_proofs zone trie (with_glue zone trie entries)) in
      fst (Packet.encode_axfr_reply room `Tcp (answer (`Axfr_reply data)) data)

(* The answer to a signed question for anything else: a secondary asks for the SOA first. *)
let of_zones primary proto address port packet message ~room =
  let now = Mirage_ptime.now () and elapsed = Mirage_mtime.elapsed_ns () in
  let _, answer, _, _ = Dns_server.Primary.handle_packet primary now elapsed proto address port packet None in
  let complete answer =
    let max_size, edns = Edns.reply packet.Packet.edns in
    let max_size = Option.map (fun size -> max 512 (size - room)) max_size in
    let text, _ = Packet.encode ?max_size proto (Packet.with_edns answer edns) in
    let wanted = Message.wants_recursion message and edns = Message.has_edns message in
    Cstruct.to_string (Message.completed (Cstruct.of_string text) ~recursion:false ~authoritative:false ~wanted ~edns)
  in
  Option.to_list (Option.map complete answer)

let refused message =
  match Message.question message with
  | Some (at, _, _) -> [ Cstruct.to_string (Message.without_records message at Message.refused) ]
  | None -> []

let answers secondaries primary proto address port packet message =
  let question = packet.Packet.question and here = Secondaries.at secondaries address in
  let now = Mirage_ptime.now () and trie = Dns_server.Primary.data primary in
  let transfer =
    match packet.data with `Axfr_request -> Some None | `Ixfr_request soa -> Some (Some soa) | _ -> None
  in
  (* Over UDP anybody could ask in another's name. *)
  let to_refuse = proto = `Udp && transfer <> None in
  let reply ~room = function
    | Some has ->
        Log.info (fun f -> f "%a to %a" Packet.Question.pp question Ipaddr.pp address);
        zone_of trie packet ~room ~has
    | None -> of_zones primary proto address port packet message ~room
  in
  let warn why = Log.warn (fun f -> f "%a to %a refused: %s" Packet.Question.pp question Ipaddr.pp address why) in
  let says why = if proto = `Tcp && here <> [] then warn why in
  match (packet.tsig, transfer) with
  | None, None -> None
  | None, Some _ when to_refuse || not (List.exists (fun { Secondaries.key; _ } -> key = None) here) ->
      says "it has a key, and did not sign";
      Some (refused message)
  | None, Some _ -> Some (reply ~room:0 transfer)
  | Some _, _ when here = [] || to_refuse -> if transfer = None then None else Some (refused message)
  | Some signature, _ -> (
      match Secondaries.verified here ~now packet signature (Cstruct.to_string message) with
      | Error answer ->
          says "its signature is not by its key, or the clocks differ";
          Some (Option.to_list answer)
      | Ok (key, request) ->
          let messages = reply ~room:(Secondaries.size_of_signature key) transfer in
          Some (snd (Secondaries.signed key ~now ~request messages)))

(* The answers to what only secondaries may ask; None of all else. *)
let handle secondaries primary proto address port message =
  if not (concerns secondaries address message) then None
  else
    match Packet.decode (Cstruct.to_string message) with
    | Error _ -> None
    | Ok packet -> Option.map (List.map Cstruct.of_string) (answers secondaries primary proto address port packet message)

(* Zones that are transferred from other servers, each with those that have it, in the order in which they are asked.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns

type zone = {
  name : [ `raw ] Domain_name.t;
  servers : Secondaries.t list;
  mutable soa : Soa.t option;  (** of what is answered; None before the first transfer, and when that has expired *)
  mutable confirmed : int;  (** the second in which a primary last gave the zone, or had nothing newer *)
  mutable reported : string;  (** the failure that was logged last *)
  mutable is_due : bool;  (** a primary sent a NOTIFY that nobody has looked at yet *)
  notified : unit Lwt_condition.t;
}

let prefix = "; primary "
let max_lines = 1_000

(* Of a disk, one line for each zone and server: ZONE ADDRESS, or ZONE ADDRESS KEY ALGORITHM SECRET. *)
let of_text text =
  let lines = Secondaries.lines ~prefix text in
  if List.length lines > max_lines then Fmt.failwith "--zone-block: more than %d lines of primaries" max_lines;
  let add zones (number, line) =
    let wrong () = Fmt.failwith "--zone-block: line %d is no primary" number in
    match String.split_on_char ' ' line with
    | [] -> wrong ()
    | name :: words -> (
        match (Domain_name.of_string name, Secondaries.of_words words) with
        | Ok name, Ok server ->
            let this, others = List.partition (fun zone -> Domain_name.equal zone.name name) zones in
            let servers = match this with [ { servers; _ } ] -> servers @ [ server ] | _ -> [ server ] in
            let zone =
              { name; servers; soa = None; confirmed = 0; reported = ""; is_due = false; notified = Lwt_condition.create () }
            in
            others @ [ zone ]
        | _ -> wrong ())
  in
  List.fold_left add [] lines

let is_within zone name = Domain_name.is_subdomain ~subdomain:name ~domain:zone

(* The zone, of those that are transferred, that a name belongs to. [trie] may have one below it. *)
let of_name zones trie name =
  let deeper a b = compare (Domain_name.count_labels b.name) (Domain_name.count_labels a.name) in
  match List.sort deeper (List.filter (fun zone -> is_within zone.name name) zones) with
  | [] -> None
  | zone :: _ -> (
      match Dns_trie.zone name trie with
      | Ok (own, _) when Domain_name.count_labels own > Domain_name.count_labels zone.name -> None
      | _ -> Some zone)

(* Whether it is not known what a name has: nobody is to get that of the zone above. *)
let lacks zones trie name =
  List.exists (fun { soa; _ } -> soa = None) zones
  && match of_name zones trie name with Some { soa; _ } -> soa = None | None -> false

(* The answer to a NOTIFY, which its primary alone may send: RFC 1996. A signature has to be right; without one it is a hint to look
   there, with the primary's key. None of what is no NOTIFY. *)
let notified zones address message =
  if Cstruct.length message < Message.header || Message.opcode message <> 4 || Message.is_answer message then None
  else
    let text = Cstruct.to_string message in
    let refused () =
      match Message.question message with
      | Some (at, _, _) -> [ Cstruct.to_string (Message.without_records message at Message.refused) ]
      | None -> []
    in
    let accept packet zone soa =
      let is_newer = match (zone.soa, soa) with Some old, Some soa -> Soa.newer ~old soa | _ -> true in
      if is_newer then begin
        zone.is_due <- true;
        Lwt_condition.signal zone.notified ()
      end;
      let flags = Packet.Flags.singleton `Authoritative in
      fst (Packet.encode `Udp (Packet.create (fst packet.Packet.header, flags) packet.question `Notify_ack))
    in
    let answers packet soa =
      let name, kind = packet.Packet.question and now = Mirage_ptime.now () in
      let zone = List.find_opt (fun zone -> Domain_name.equal zone.name name) zones in
      let servers = match zone with Some { servers; _ } -> Secondaries.at servers address | None -> [] in
      match (zone, kind, packet.tsig) with
      | Some zone, `K (Rr_map.K Soa), None when servers <> [] -> [ accept packet zone soa ]
      | Some zone, `K (Rr_map.K Soa), Some signature when servers <> [] -> (
          match Secondaries.verified servers ~now packet signature text with
          | Ok (key, request) -> snd (Secondaries.signed key ~now ~request [ accept packet zone soa ])
          | Error answer -> Option.to_list answer)
      | _ -> refused ()
    in
    match Packet.decode text with
    | Ok ({ data = `Notify soa; _ } as packet) -> Some (answers packet soa)
    | _ -> Some (refused ())

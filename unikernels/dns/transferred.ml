(* Zones are transferred from their primaries: at the start, when a primary sends a NOTIFY, and as their SOA has it. Each is
   answered until it expires. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix
open Dns

let log = Logs.Src.create "transferred"

module Log = (val Logs.src_log log)

module K = struct
  open Cmdliner

  let max_transfer =
    let doc = "Bytes of one zone that is transferred from its primary; a longer one is not taken." in
    Mirage_runtime.register_arg Arg.(value & opt int 500_000 (info ~doc ~docv:"BYTES" [ "max-transfer" ]))
end

let port = 53

(* Seconds for a connection, for each message, for a whole zone. *)
let to_connect = 5
let to_answer = 20
let to_transfer = 600

(* At once. *)
let max_transfers = 4

(* What a zone asks for is kept within these seconds. Before its first transfer nobody is served: it is asked for soon, and less
   often when that was in vain for a minute. *)
let shortest = 2
let longest = 7 * 24 * 3_600
let first = 1
let first_attempts = 60
let after_first = 30
let transfers = Counters.counter "dns_transfers_total" "Transfers of zones from their primaries, by what came of them."

exception Failed of string

let fail format = Fmt.kstr (fun reason -> raise (Failed reason)) format

(* What a primary has to say against a request. *)
let refusal code tsig =
  let reason =
    match Option.map (fun (_, { Tsig.error; _ }, _) -> error) tsig with
    | Some Rcode.BadVersOrSig -> ": it has another secret for the key"
    | Some Rcode.BadKey -> ": it does not know the key, or has another algorithm for it"
    | Some Rcode.BadTime -> ": its clock differs by more than 5 minutes"
    | _ -> ""
  in
  let names = [ (1, "FORMERR"); (2, "SERVFAIL"); (3, "NXDOMAIN"); (4, "NOTIMP"); (5, "REFUSED"); (9, "NOTAUTH") ] in
  Fmt.str "the answer is %s%s" (Option.value (List.assoc_opt code names) ~default:(Fmt.str "code %d" code)) reason

(* A request, and how its answers are read. *)
let request zone kind key =
  let id = String.get_uint16_be (Mirage_crypto_rng.generate 2) 0 in
  let question, data =
    match kind with
    | `Soa -> (Packet.Question.create zone Rr_map.Soa, `Query)
    | `Axfr -> (((Domain_name.raw zone, `Axfr) : Packet.Question.t), `Axfr_request)
  in
  let text, _ = Packet.encode `Tcp (Packet.create (id, Packet.Flags.empty) question data) in
  match key with
  | None -> (id, text, None)
  | Some key ->
      let mac, texts = Secondaries.signed key ~now:(Mirage_ptime.now ()) [ text ] in
      (id, String.concat "" texts, Some (Secondaries.series key mac))

(* The records of one answer. *)
let read ~id series message =
  let whole = Cstruct.of_string message in
  if String.length message < Message.header || Message.id whole <> id || not (Message.is_answer whole) then
    fail "what it sent is no answer";
  match Wire.of_string message with
  | None -> fail "its answer can't be read"
  | Some { tsig; answers; _ } ->
      if Message.code whole <> 0 then raise (Failed (refusal (Message.code whole) tsig));
      let now = Mirage_ptime.now () in
      let is_genuine = match series with None -> true | Some series -> Secondaries.continues series ~now message tsig in
      if not is_genuine then fail "its answer is not signed with the key, or the clocks differ by more than 5 minutes";
      if not (Message.is_authoritative whole) then fail "it is not authoritative for the zone";
      answers

let soa_of zone = function
  | { Wire.kind; _ } as record when kind = Wire.soa -> (
      match Wire.to_map record with Ok map -> Name_rr_map.find zone Rr_map.Soa map | Error _ -> None)
  | _ -> None

(* A zone while it arrives, without what belongs to another one. *)
type arriving = { mutable soa : Soa.t option; mutable is_complete : bool; mutable records : int; mutable content : Name_rr_map.t }

let add map content =
  let of_name name = Rr_map.fold (fun (Rr_map.B (key, value)) content -> Name_rr_map.add name key value content) in
  Domain_name.Map.fold of_name map content

let arrived zone ~is_others arriving record =
  if arriving.is_complete then fail "there is more after the end of the zone";
  match (soa_of zone record, arriving.soa) with
  | None, None -> fail "the zone does not begin with its SOA"
  | Some soa, None -> arriving.soa <- Some soa
  | Some soa, Some first ->
      if Soa.compare soa first <> 0 then fail "the zone ends with another SOA than it begins with";
      arriving.is_complete <- true
  | None, Some _ -> (
      arriving.records <- arriving.records + 1;
      match Wire.to_map record with
      | Error reason -> raise (Failed reason)
      | Ok map ->
          let is_ours name _ = Primaries.is_within zone name && not (is_others name) in
          arriving.content <- add (Domain_name.Map.filter is_ours map) arriving.content)

(* Seconds until a zone is asked for again. *)
let pause { Primaries.soa; confirmed; _ } ~now ~failures =
  let within_bounds seconds = max shortest (min longest seconds) in
  let seconds value = Option.value (Int32.unsigned_to_int value) ~default:longest in
  match soa with
  | None -> if failures <= first_attempts then first else after_first
  | Some { Soa.refresh; _ } when failures = 0 -> within_bounds (seconds refresh)
  | Some { Soa.retry; expiry; _ } -> within_bounds (min (seconds retry) (confirmed + seconds expiry - now))

let has_expired { Primaries.soa; confirmed; _ } ~now =
  match soa with
  | Some { Soa.expiry; _ } -> now - confirmed >= max shortest (Option.value (Int32.unsigned_to_int expiry) ~default:longest)
  | None -> false

(* What a primary failed with, once: it is asked again and again. *)
let report zone { Secondaries.address; _ } reason =
  let line = Fmt.str "%a from %a: %s" Domain_name.pp zone.Primaries.name Ipaddr.pp address reason in
  if zone.reported <> line then Log.warn (fun f -> f "%s" line);
  zone.reported <- line

module Make (Stack : Tcpip.Stack.V4V6) = struct
  module Over = Dns_mirage.Make (Stack)

  type t = {
    stack : Stack.t;
    zones : Primaries.zone list;
    names : [ `raw ] Domain_name.t list;  (** of all zones, those of the disk too *)
    change : (Dns_trie.t -> Dns_trie.t) -> unit;  (** what is answered *)
    announce : [ `raw ] Domain_name.t * Soa.t -> unit;  (** to those who get the zones from here *)
  }

  let within seconds what attempt =
    Lwt.pick [ attempt; (Mirage_sleep.ns (Duration.of_sec seconds) >|= fun () -> fail "%s within %d s" what seconds) ]

  (* One that comes about too late is closed. *)
  let connect t address =
    let connecting = Stack.TCP.create_connection (Stack.tcp t.stack) (address, port) in
    let close () = connecting >>= function Ok flow -> Stack.TCP.close flow | Error _ -> Lwt.return_unit in
    Lwt.catch
      (fun () -> within to_connect "no connection" (Lwt.protected connecting))
      (fun exn ->
        Lwt.async close;
        Lwt.fail exn)
    >>= function
    | Ok flow -> Lwt.return flow
    | Error error -> fail "%a" Stack.TCP.pp_error error

  let next flow =
    within to_answer "no answer" (Over.read_tcp flow) >|= function
    | Ok message -> Cstruct.to_string message
    | Error () -> fail "it closed the connection"

  (* How its answers are read, and whether what was read so far is all signed. *)
  let ask flow zone kind key =
    let id, text, series = request zone kind key in
    Over.send_tcp (Over.flow flow) (Cstruct.of_string text) >|= function
    | Ok () -> (read ~id series, fun () -> match series with Some { unsigned; _ } -> unsigned = 0 | None -> true)
    | Error () -> fail "it closed the connection"

  let serial_at flow zone key =
    ask flow zone `Soa key >>= fun (read, _) ->
    next flow >|= fun message ->
    match List.find_map (soa_of zone) (read message) with Some soa -> soa | None -> fail "it has no SOA of the zone"

  let whole flow name ~is_others key =
    let arriving = { soa = None; is_complete = false; records = 0; content = Domain_name.Map.empty } in
    ask flow name `Axfr key >>= fun (read, is_signed) ->
    let rec messages bytes =
      next flow >>= fun message ->
      let bytes = bytes + String.length message in
      if bytes > K.max_transfer () then fail "the zone is longer than %d bytes (--max-transfer)" (K.max_transfer ());
      List.iter (arrived name ~is_others arriving) (read message);
      if arriving.is_complete then Lwt.return_unit else Lwt.pause () >>= fun () -> messages bytes
    in
    within to_transfer "no end of the zone" (messages 0) >|= fun () ->
    if not (is_signed ()) then fail "the end of the zone is not signed";
    arriving

  let take t zone server { soa; content; records; _ } =
    let name = zone.Primaries.name in
    match soa with
    | Some soa when Name_rr_map.find name Rr_map.Ns content <> None ->
        t.change (fun trie -> Dns_trie.insert_map content (Dns_trie.insert name Rr_map.Soa soa (Dns_trie.remove_zone name trie)));
        zone.soa <- Some soa;
        zone.reported <- "";
        zone.confirmed <- Bounded.seconds ();
        transfers {|outcome="complete"|};
        Log.app (fun f -> f "%a: serial %lu from %a, %d records" Domain_name.pp name soa.Soa.serial Ipaddr.pp server records);
        t.announce (name, soa)
    | _ -> fail "the zone has no NS records of its own"

  let is_others t name host =
    let is_below other = (not (Domain_name.equal other name)) && Primaries.is_within name other in
    List.exists (fun other -> is_below other && Primaries.is_within other host) t.names

  (* Get from the server what it has that is newer. *)
  let look t zone { Secondaries.address; key } =
    let name = zone.Primaries.name in
    connect t address >>= fun connection ->
    Lwt.finalize
      (fun () ->
        let flow = Over.of_flow connection in
        serial_at flow name key >>= fun soa ->
        match zone.soa with
        | Some served when not (Soa.newer ~old:served soa) ->
            if Soa.newer ~old:soa served then fail "it has serial %lu, and %lu is answered" soa.serial served.serial;
            zone.confirmed <- Bounded.seconds ();
            Lwt.return_unit
        | _ -> whole flow name ~is_others:(is_others t name) key >|= take t zone address)
      (fun () -> Stack.TCP.close connection)

  (* Its primaries in their order, until one has it. *)
  let rec refresh t zone = function
    | [] -> Lwt.return_false
    | server :: others ->
        Lwt.try_bind
          (fun () -> look t zone server)
          (fun () -> Lwt.return_true)
          (fun exn ->
            let reason = match exn with Failed reason -> reason | exn -> Printexc.to_string exn in
            transfers {|outcome="failed"|};
            report zone server reason;
            refresh t zone others)

  let expire t zone =
    t.change (Dns_trie.remove_zone zone.Primaries.name);
    zone.soa <- None;
    Log.err (fun f -> f "%a has expired: no primary had it for as long as its SOA has it" Domain_name.pp zone.name)

  let slots = Lwt_pool.create max_transfers (fun () -> Lwt.return_unit)

  let rec follow t zone failures =
    zone.Primaries.is_due <- false;
    Lwt_pool.use slots (fun () -> refresh t zone zone.servers) >>= fun has_it ->
    let failures = if has_it then 0 else failures + 1 and now = Bounded.seconds () in
    if has_expired zone ~now then expire t zone;
    let wait = Mirage_sleep.ns (Duration.of_sec (pause zone ~now ~failures)) in
    (if zone.is_due then Lwt.return_unit else Lwt.pick [ wait; Lwt_condition.wait zone.notified ]) >>= fun () ->
    (* Many a NOTIFY is one question. *)
    Mirage_sleep.ns (Duration.of_ms 200) >>= fun () -> follow t zone failures

  let start t =
    let of_each value =
      let labelled zone soa = (Fmt.str "zone=\"%a\"" Domain_name.pp zone.Primaries.name, value zone soa) in
      List.filter_map (fun zone -> Option.map (labelled zone) zone.Primaries.soa) t.zones
    in
    let serial _ { Soa.serial; _ } = Option.value (Int32.unsigned_to_int serial) ~default:0 in
    let age { Primaries.confirmed; _ } _ = Bounded.seconds () - confirmed in
    Counters.gauge "dns_zone_serial" "Of each transferred zone that is answered." (fun () -> of_each serial);
    Counters.gauge "dns_zone_age_seconds" "Since a primary last gave the zone, or had nothing newer." (fun () -> of_each age);
    List.iter (fun zone -> Lwt.async (fun () -> follow t zone 0)) t.zones
end

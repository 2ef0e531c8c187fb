(* No more TCP connections than there is memory for, whoever opens them, and no exception that ends the domain.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let log = Logs.Src.create "bounded"

module Log = (val Logs.src_log log)

module K = struct
  open Cmdliner

  let connections =
    let doc = "TCP connections at once; when there are as many, a new one ends the one that was silent for longest." in
    Mirage_runtime.register_arg Arg.(value & opt int 256 (info ~doc ~docv:"COUNT" [ "connections" ]))

  let per_second =
    let doc = "New TCP connections a second, a quarter of them from one address (of IPv6 from one /64); more are ignored." in
    Mirage_runtime.register_arg Arg.(value & opt int 500 (info ~doc ~docv:"COUNT" [ "connections-per-second" ]))
end

let most () = max 1 (K.connections ())
let seconds () = Int64.to_int (Int64.div (Mirage_mtime.elapsed_ns ()) 1_000_000_000L)

(* What a frame says of its TCP segment: RFC 894, 791, 8200 and 9293. *)
module Segment = struct
  type t = { tcp : int;  (** where its header begins *) source : string; destination : string  (** address and port *) }

  let fin = 0x01
  and syn = 0x02
  and rst = 0x04
  and ack = 0x10

  let has frame { tcp; _ } flag = Cstruct.get_uint8 frame (tcp + 13) land flag <> 0
  let sequence frame { tcp; _ } = Cstruct.BE.get_uint32 frame (tcp + 4)
  let acknowledged frame { tcp; _ } = Cstruct.BE.get_uint32 frame (tcp + 8)

  let at frame ~addresses ~size tcp =
    if Cstruct.length frame < tcp + 20 then `Drop
    else
      let part off len = Cstruct.to_string frame ~off ~len in
      let source = part addresses size ^ part tcp 2 and destination = part (addresses + size) size ^ part (tcp + 2) 2 in
      `Tcp { tcp; source; destination }

  (* Fragments, and headers between that of IPv6 and that of TCP, could open connections behind our back. *)
  let of_frame frame =
    let length = Cstruct.length frame in
    if length < 14 + 20 then `Other
    else
      match Cstruct.BE.get_uint16 frame 12 with
      | 0x0800 when Cstruct.get_uint8 frame 23 = 6 ->
          let header = (Cstruct.get_uint8 frame 14 land 0x0f) * 4 in
          let is_fragment = Cstruct.BE.get_uint16 frame 20 land 0x3fff <> 0 in
          if is_fragment || header < 20 then `Drop else at frame ~addresses:26 ~size:4 (14 + header)
      | 0x86dd when length >= 14 + 40 -> (
          match Cstruct.get_uint8 frame 20 with
          | 6 -> at frame ~addresses:22 ~size:16 (14 + 40)
          | 17 | 58 -> `Other
          | _ -> `Drop)
      | _ -> `Other
end

(* How much of something there may be in this second, in all and for each address. However many ask, it takes no more memory:
   addresses share a counter now and then, others the next second. *)
module Rate = struct
  type t = { of_owner : int array; mutable first : int; mutable again : int; mutable now : int; ignored : int array }

  let create () =
    { of_owner = Array.make 4_096 0; first = 0; again = 0; now = 0; ignored = Array.make 16_384 0 }

  (* Who was ignored and asks once more, as a client does after a second. A flood of made-up addresses does not, so a quarter
     of what is allowed is kept for this. *)
  let seen { ignored; _ } key =
    let hash = Hashtbl.hash key in
    let at = hash mod Array.length ignored in
    let found = ignored.(at) = hash in
    ignored.(at) <- (if found then 0 else hash);
    found

  let start_of_second t =
    if seconds () <> t.now then begin
      t.now <- seconds ();
      t.first <- 0;
      t.again <- 0;
      Array.fill t.of_owner 0 (Array.length t.of_owner) 0
    end

  (* One more for [owner], when there are less than [most] in all and [each] of one owner; [key] is what it would ask again. *)
  let allows t ~most ~each ~owner ~key =
    start_of_second t;
    let at = Hashtbl.seeded_hash t.now owner mod Array.length t.of_owner in
    let of_owner = t.of_owner.(at) in
    let first = t.first < most * 3 / 4 and fits = of_owner < each in
    let again = (not (first && fits)) && seen t key && fits && t.again < most / 4 in
    let allowed = (first && fits) || again in
    if allowed then t.of_owner.(at) <- of_owner + 1;
    if again then t.again <- t.again + 1 else if allowed then t.first <- t.first + 1;
    allowed
end

(* An address as bytes; of IPv6 its /64, for who has one of these has all addresses in it. *)
let owner source = if String.length source = 4 + 2 then String.sub source 0 4 else String.sub source 0 8

let opening = Rate.create ()

(* Ports, each with the networks that alone may open connections to it. *)
let restricted : (int * Ipaddr.Prefix.t list) list ref = ref []

let is_admitted { Segment.source; destination; _ } =
  let port text = String.get_uint16_be text (String.length text - 2) in
  let address text = Ipaddr.of_octets_exn (String.sub text 0 (String.length text - 2)) in
  match List.assoc_opt (port destination) !restricted with
  | None -> true
  | Some networks -> List.exists (Ipaddr.Prefix.mem (address source)) networks

let may_open ((source, _) as key) =
  let most = max 4 (K.per_second ()) in
  Rate.allows opening ~most ~each:(most / 4) ~owner:(owner source) ~key

type connection = {
  opened : Cstruct.t;  (** a copy of the frame that opened it *)
  segment : Segment.t;
  mutable expected : int32;  (** the sequence number that tcpip waits for *)
  mutable answered : bool;  (** by the client, when we had agreed *)
  mutable ended : bool;  (** by us *)
  mutable last : int;  (** when the client said something, by counting *)
  mutable since : int;  (** the second in which one of these became true *)
  mutable active : int;  (** the second of its last frame, in either direction *)
}

(* By client and server, each with its port. *)
let known : (string * string, connection) Hashtbl.t = Hashtbl.create 97

(* Set when the domain is about to end: who asks for a connection now is ignored, and asks again what comes at its address. *)
let closing = ref false

let requested = Counters.counter "unikernel_connections_total" "Requests for a TCP connection, by what came of them."

let () =
  let states { answered; ended; _ } = if ended then 2 else if answered then 1 else 0 in
  Counters.gauge "unikernel_connections" "TCP connections in memory, by their state." (fun () ->
      let counts = [| 0; 0; 0 |] in
      Hashtbl.iter (fun _ connection -> counts.(states connection) <- counts.(states connection) + 1) known;
      List.mapi (fun at state -> (Fmt.str "state=%S" state, counts.(at))) [ "opening"; "open"; "ended" ])

let count = ref 0

let next () =
  incr count;
  !count

(* First to go is what has ended, then what the client never answered, then who was silent for longest. *)
let first_to_go () =
  let rank connection = (not connection.ended, connection.answered, connection.last) in
  let earlier key connection = function
    | Some (_, other) as first when compare (rank other) (rank connection) <= 0 -> first
    | _ -> Some (key, connection)
  in
  Hashtbl.fold earlier known None

(* tcpip has no call that drops a connection, and keeps one that has ended for seconds. But it does as its client says: this is
   the frame that opened the connection, as the client's reset. When there is nothing to reset, tcpip ignores it. *)
let reset { opened; segment = { tcp; _ }; expected; _ } =
  let frame = Cstruct.append opened Cstruct.empty in
  let changed () = List.fold_left (fun sum at -> sum + Cstruct.BE.get_uint16 frame (tcp + at)) 0 [ 4; 6; 12 ] in
  let before = changed () in
  Cstruct.BE.set_uint32 frame (tcp + 4) expected;
  Cstruct.set_uint8 frame (tcp + 13) Segment.(rst lor ack);
  (* RFC 1624, 3. *)
  let rec folded sum = if sum > 0xffff then folded ((sum land 0xffff) + (sum lsr 16)) else sum in
  let sum = (lnot (Cstruct.BE.get_uint16 frame (tcp + 16)) land 0xffff) + (3 * 0xffff) - before + changed () in
  Cstruct.BE.set_uint16 frame (tcp + 16) (lnot (folded sum) land 0xffff);
  frame

(* Longer than any of tcpip's own timers but one: who acknowledges again and again what has ended keeps it there. *)
let patience = 12

let is_over now connection = ((not connection.answered) || connection.ended) && now - connection.since > patience
let swept = ref 0

(* The connections that have to go before there is another one. *)
let to_go () =
  let now = seconds () in
  let over =
    if now = !swept then []
    else begin
      swept := now;
      Hashtbl.fold (fun key connection found -> if is_over now connection then (key, connection) :: found else found) known []
    end
  in
  if over <> [] || Hashtbl.length known < most () then over else Option.to_list (first_to_go ())

module Make (Net : Mirage_net.S) = struct
  include Net

  let connect net =
    Lwt.Exception_filter.(set handle_all);
    (* What it does by default ends the domain: one client's request, and nobody is answered any more. *)
    (Lwt.async_exception_hook :=
       fun exn ->
         if exn = Out_of_memory then Gc.compact ();
         Log.err (fun f -> f "%s" (Printexc.to_string exn)));
    Counters.total "unikernel_network_bytes_total" "Bytes of Ethernet frames." (fun () ->
        let { Mirage_net.rx_bytes; tx_bytes; _ } = Net.get_stats_counters net in
        [ ({|direction="in"|}, Int64.to_int rx_bytes); ({|direction="out"|}, Int64.to_int tx_bytes) ]);
    Lwt.return net

  let without_exceptions callback frame =
    Lwt.catch (fun () -> callback frame) (fun exn ->
        !Lwt.async_exception_hook exn;
        Lwt.return_unit)

  let drop callback (key, connection) =
    if not connection.ended then requested {|outcome="reset"|};
    Hashtbl.remove known key;
    without_exceptions callback (reset connection)

  (* A frame that opens a connection and brings data or is padded without need is nobody's who has to be served. *)
  let longest = 14 + 60 + 60

  let opens callback frame segment =
    let open Segment in
    let { Tcp.Stats.tcp_channels; tcp_listens; _ } = Tcp.Stats.singleton in
    (* Never seen: that there are some of which nothing is known here. *)
    let too_many = tcp_channels + tcp_listens > 2 * (most () + 16) in
    let may_open () = not (Cstruct.length frame > longest || too_many) && may_open (segment.source, segment.destination) in
    if !closing || (not (is_admitted segment)) || not (may_open ()) then Lwt.return (requested {|outcome="ignored"|})
    else begin
      requested {|outcome="accepted"|};
      Lwt_list.iter_s (drop callback) (to_go ()) >>= fun () ->
      let connection =
        {
          opened = Cstruct.append frame Cstruct.empty; segment; expected = Int32.succ (sequence frame segment);
          answered = false; ended = false; last = next (); since = seconds (); active = seconds ();
        } [@ocamlformat "disable"]
      in
      Hashtbl.replace known (segment.source, segment.destination) connection;
      callback frame
    end

  let says callback frame segment connection =
    let has = Segment.has frame segment in
    connection.last <- next ();
    connection.active <- seconds ();
    if has Segment.rst && Segment.sequence frame segment = connection.expected then
      Hashtbl.remove known (segment.source, segment.destination)
    else if has Segment.ack then connection.answered <- true;
    callback frame

  let arrived callback frame =
    match Segment.of_frame frame with
    | `Drop -> Lwt.return_unit
    | `Other -> callback frame
    | `Tcp segment -> (
        let has = Segment.has frame segment and key = (segment.source, segment.destination) in
        let asks = has Segment.syn && not (has Segment.ack || has Segment.rst) in
        match Hashtbl.find_opt known key with
        | Some connection when asks && connection.ended -> drop callback (key, connection) >>= fun () -> opens callback frame segment
        (* tcpip says again by itself that it agrees, and would forget the first one without freeing it. *)
        | Some connection when asks && not connection.answered -> Lwt.return_unit
        | Some connection -> says callback frame segment connection
        | None when asks -> opens callback frame segment
        (* An answer to what we opened, or a stray: tcpip knows. *)
        | None -> callback frame)

  let listen net ~header_size callback = Net.listen net ~header_size (without_exceptions (arrived callback))

  (* What we acknowledge last is what tcpip waits for. *)
  let left frame =
    match Segment.of_frame frame with
    | `Tcp segment -> (
        let has = Segment.has frame segment and key = (segment.destination, segment.source) in
        match Hashtbl.find_opt known key with
        | Some _ when has Segment.rst -> Hashtbl.remove known key
        | Some connection ->
            connection.active <- seconds ();
            if has Segment.ack then connection.expected <- Segment.acknowledged frame segment;
            if has Segment.fin && not connection.ended then begin
              connection.ended <- true;
              connection.since <- seconds ()
            end
        | None -> ())
    | `Other | `Drop -> ()

  let write net ~size fill =
    Net.write net ~size (fun frame ->
        let length = fill frame in
        left (Cstruct.sub frame 0 length);
        length)
end

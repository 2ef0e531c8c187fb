(* From the request of "xl shutdown" to an end in order. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let log = Logs.Src.create "lifecycle"

module Log = (val Logs.src_log log)

(* In seconds: how long connections may take to end, which is less than the 10 that xen_domain waits by default, for how long one
   has to be silent to be closed before that, and how long the last words may take to leave. *)
let bound = 5
let silence = 1
let farewell = 1

(* The toolstack's request, in xenstore. Who can't see it is destroyed some time later. A unikernel can't ask for a reboot. *)
let rec requested () =
  Lwt.try_bind
    (fun () -> Xen_os.Lifecycle.await_shutdown_request ())
    (function
      | `Poweroff -> Lwt.return_unit
      | `Reboot ->
          Log.warn (fun f -> f "a reboot was requested: only the toolstack can do that, by destroying and creating the domain");
          requested ())
    (fun exn ->
      Log.warn (fun f -> f "requests to shut down can't be seen: %s" (Printexc.to_string exn));
      fst (Lwt.wait ()))

(* Whether [happened ()] within so many seconds. *)
let within limit happened =
  let until = Int64.add (Mirage_mtime.elapsed_ns ()) (Duration.of_sec limit) in
  let rec look () =
    if happened () then Lwt.return_true
    else if Mirage_mtime.elapsed_ns () > until then Lwt.return_false
    else Mirage_sleep.ns (Duration.of_ms 100) >>= look
  in
  look ()

(* [Stack] that knows the connections which clients opened, to close them. *)
module Make (Stack : Tcpip.Stack.V4V6) = struct
  include (
    Stack :
      Tcpip.Stack.V4V6 with type t = Stack.t and module IP = Stack.IP and module UDP = Stack.UDP and module TCP := Stack.TCP)

  type client = { flow : Stack.TCP.flow; mutable writing : int  (** what the client is slow to take *) }

  (* By what Bounded.known has of them. *)
  let clients : (string * string, client) Hashtbl.t = Hashtbl.create 97

  let key flow =
    let octets (address, port) =
      let two = Bytes.create 2 in
      Bytes.set_uint16_be two 0 port;
      Ipaddr.to_octets address ^ Bytes.to_string two
    in
    (octets (Stack.TCP.dst flow), octets (Stack.TCP.src flow))

  let is_open key = match Hashtbl.find_opt Bounded.known key with Some { ended; _ } -> not ended | None -> false

  (* Who forgets to close what was reset does not keep it here. *)
  let remember client =
    if Hashtbl.length clients > 2 * Bounded.most () then
      Hashtbl.filter_map_inplace (fun key client -> if is_open key then Some client else None) clients;
    Hashtbl.replace clients (key client.flow) client

  module TCP = struct
    include (
      Stack.TCP :
        Tcpip.Tcp.S
          with type t = Stack.TCP.t
           and type ipaddr = Ipaddr.t
           and type error = Stack.TCP.error
           and type write_error = Stack.TCP.write_error
           and type flow := Stack.TCP.flow)

    type flow = client

    let of_tcp flow = { flow; writing = 0 }
    let dst { flow; _ } = Stack.TCP.dst flow
    let src { flow; _ } = Stack.TCP.src flow
    let read { flow; _ } = Stack.TCP.read flow
    let shutdown { flow; _ } = Stack.TCP.shutdown flow

    let writing client write data =
      client.writing <- client.writing + 1;
      Lwt.finalize
        (fun () -> write client.flow data)
        (fun () ->
          client.writing <- client.writing - 1;
          Lwt.return_unit)

    let write client = writing client Stack.TCP.write
    let writev client = writing client Stack.TCP.writev
    let write_nodelay client = writing client Stack.TCP.write_nodelay
    let writev_nodelay client = writing client Stack.TCP.writev_nodelay
    let create_connection ?keepalive tcp server = Stack.TCP.create_connection ?keepalive tcp server >|= Result.map of_tcp

    let listen tcp ~port ?keepalive callback =
      Stack.TCP.listen tcp ~port ?keepalive (fun flow ->
          let client = of_tcp flow in
          remember client;
          callback client)

    let close { flow; _ } =
      Hashtbl.remove clients (key flow);
      Stack.TCP.close flow
  end

  (* tcpip says what it still has to say before it ends a connection. *)
  let close_those wanted =
    let chosen = Hashtbl.fold (fun key client chosen -> if wanted key client then client :: chosen else chosen) clients [] in
    List.iter (fun client -> Lwt.async (fun () -> TCP.close client)) chosen

  let is_silent key { writing; _ } =
    writing = 0
    &&
    match Hashtbl.find_opt Bounded.known key with Some { active; _ } -> Bounded.seconds () - active > silence | None -> true

  let left () = Hashtbl.fold (fun _ { Bounded.answered; ended; _ } sum -> if answered && not ended then sum + 1 else sum) Bounded.known 0

  (* Returns when the domain was asked to end and its connections have. [patient]: those in use may end by themselves; else, as they
     never would, all are closed at once, so that their clients connect again. *)
  let until_shutdown ~patient =
    requested () >>= fun () ->
    Bounded.closing := true;
    Log.app (fun f -> f "shutdown requested, %d connections are open" (left ()));
    let ended () =
      close_those is_silent;
      left () = 0
    in
    (if patient then within bound ended else Lwt.return_false) >>= fun in_order ->
    if patient && not in_order then Log.warn (fun f -> f "%d connections did not end within %d s" (left ()) bound);
    close_those (fun _ _ -> true);
    within farewell (fun () -> left () = 0) >|= fun (_ : bool) -> Log.app (fun f -> f "shut down")
end

(* No more connections than there is memory for. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

(* How long a client that was told to go may take to fetch what it is owed. *)
let patience = Duration.of_sec 10

(* [Tcp] with [most] connections that others have opened. When there is another one, the client that was silent for longest
   is told that it has said all: nobody can vanish and leave his connection here for good, and whoever opens many and says
   nothing loses them to those who do. With as many again on their way out, the next one is closed at once. *)
module Make (Tcp : Tcpip.Tcp.S) (Known : sig
  val most : unit -> int
end) =
struct
  include Tcp

  type client = { flow : Tcp.flow; mutable last : int  (** when it said or took something *); mutable told : bool }

  (* By whose they are, for a flow can't be looked up. *)
  let clients : ((Tcp.ipaddr * int) * int, client) Hashtbl.t = Hashtbl.create 97
  let key flow = (Tcp.dst flow, snd (Tcp.src flow))

  (* Who was silent for longest is told by counting: no clock is needed. *)
  let count = ref 0

  let next () =
    incr count;
    !count

  let note flow = Option.iter (fun client -> client.last <- next ()) (Hashtbl.find_opt clients (key flow))

  let noting flow did =
    did >|= fun result ->
    if Result.is_ok result then note flow;
    result

  let read flow =
    Tcp.read flow >|= fun got ->
    (match got with Ok (`Data _) -> note flow | _ -> ());
    got

  let write flow data = noting flow (Tcp.write flow data)
  let writev flow data = noting flow (Tcp.writev flow data)
  let write_nodelay flow data = noting flow (Tcp.write_nodelay flow data)
  let writev_nodelay flow data = noting flow (Tcp.writev_nodelay flow data)

  let close flow =
    Hashtbl.remove clients (key flow);
    Tcp.close flow

  let silent () =
    let longer _ client found =
      match found with
      | _ when client.told -> found
      | Some other when other.last < client.last -> found
      | _ -> Some client
    in
    Hashtbl.fold longer clients None

  (* Of one who has gone meanwhile nothing is kept for it. *)
  let see_off at =
    Mirage_sleep.ns patience >>= fun () ->
    match Hashtbl.find_opt clients at with Some client when client.told -> close client.flow | _ -> Lwt.return_unit

  let told = ref 0

  let make_room () =
    match silent () with
    | None -> Lwt.return_unit
    | Some client ->
        client.told <- true;
        (* Most of what a connection takes are buffers beside OCaml's heap, which do not hurry its collector. *)
        incr told;
        if !told mod Known.most () = 0 then Gc.full_major ();
        let at = key client.flow in
        Lwt.async (fun () -> see_off at);
        Tcp.shutdown client.flow `read

  let listen tcp ~port ?keepalive callback =
    Tcp.listen tcp ~port ?keepalive (fun flow ->
        let there = Hashtbl.length clients in
        if there >= 2 * Known.most () then Tcp.close flow
        else begin
          Hashtbl.replace clients (key flow) { flow; last = next (); told = false };
          (if there >= Known.most () then make_room () else Lwt.return_unit) >>= fun () -> callback flow
        end)
end

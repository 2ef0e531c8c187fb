(* Packets between clients and the networks behind the endpoint, by routing: under the addresses that they have.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let log = Logs.Src.create "forward"

module Log = (val Logs.src_log log)

module K = struct
  open Cmdliner

  let networks =
    let network = Arg.conv ((fun text -> Ipaddr.V4.Prefix.of_string text), Ipaddr.V4.Prefix.pp) in
    let doc = "A network behind the endpoint that clients may reach. Can be given several times; without it they reach none." in
    Mirage_runtime.register_arg Arg.(value & opt_all network [] (info ~doc ~docv:"NETWORK" [ "forward" ]))
end

let behind address = List.exists (Ipaddr.V4.Prefix.mem address) (K.networks ())

(* A packet that waits, for an answer to ARP or for a client that takes nothing, stands in memory: of each destination so many,
   of so many destinations. *)
let most_packets = 32
let most_destinations = 256

(* How many wait, and the last of them: they go in their order. *)
let waiting : (Ipaddr.V4.t, int * unit Lwt.t) Hashtbl.t = Hashtbl.create 17

let done_with destination =
  match Hashtbl.find_opt waiting destination with
  | Some (count, last) when count > 1 -> Hashtbl.replace waiting destination (count - 1, last)
  | _ -> Hashtbl.remove waiting destination

let forwarded = Counters.counter "vpn_packets_total" "Packets between clients and networks behind the endpoint."

let dispatch destination send =
  let count, last = Option.value ~default:(0, Lwt.return_unit) (Hashtbl.find_opt waiting destination) in
  if count < most_packets && (count > 0 || Hashtbl.length waiting < most_destinations) then begin
    let sent, resolver = Lwt.wait () in
    Hashtbl.replace waiting destination (count + 1, sent);
    forwarded {|outcome="forwarded"|};
    Lwt.async (fun () ->
        last >>= fun () ->
        Lwt.finalize send (fun () ->
            done_with destination;
            Lwt.wakeup_later resolver ();
            Lwt.return_unit))
  end
  else forwarded {|outcome="dropped"|}

(* A client's packet, of which the endpoint has seen that it bears the client's own address. tcpip writes no fragments of others. *)
let from_tunnel write (header : Ipv4_packet.t) payload =
  let is_fragment = header.off land 0x3fff <> 0 in
  match Ipv4_packet.Unmarshal.int_to_protocol header.proto with
  | Some protocol when behind header.dst && header.ttl > 1 && not is_fragment ->
      dispatch header.dst (fun () -> write ~ttl:(header.ttl - 1) ~src:header.src header.dst protocol payload)
  | _ -> Log.debug (fun f -> f "not forwarded: %a" Ipv4_packet.pp header)

(* The tunnel's network, and what writes to one of its clients. *)
let tunnel : (Ipaddr.V4.Prefix.t * (Ipaddr.V4.t -> Cstruct.t -> unit Lwt.t)) option ref = ref None

module Make (Net : Mirage_net.S) = struct
  include Net

  let connect net = Lwt.return net

  let is_ours net frame =
    Cstruct.length frame >= 14 + 20
    && Cstruct.BE.get_uint16 frame 12 = 0x0800
    && String.equal (Cstruct.to_string frame ~off:0 ~len:6) (Macaddr.to_octets (Net.mac net))

  let into_tunnel network write frame =
    match Ipv4_packet.Unmarshal.of_cstruct (Cstruct.shift frame 14) with
    | Ok (({ ttl; src; dst; _ } as header), payload)
      when ttl > 1 && behind src && Ipaddr.V4.compare dst (Ipaddr.V4.Prefix.first network) <> 0 ->
        let packet = Ipv4_packet.Marshal.make_cstruct ~payload_len:(Cstruct.length payload) { header with ttl = ttl - 1 } in
        dispatch dst (fun () -> write dst (Cstruct.append packet payload))
    | _ -> ()

  let listen net ~header_size callback =
    Net.listen net ~header_size (fun frame ->
        match !tunnel with
        | Some (network, write)
          when is_ours net frame && Ipaddr.V4.Prefix.mem (Ipaddr.V4.of_int32 (Cstruct.BE.get_uint32 frame 30)) network ->
            into_tunnel network write frame;
            Lwt.return_unit
        | _ -> callback frame)
end

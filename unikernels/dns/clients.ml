(* One port, two services: who is a client, and what all others get. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let port = 53

(* [Stack] with port 53 for those of [networks] alone: who listens there never hears of anybody else. All others are
   answered from [zones], and refused what is not in them: a resolver for everybody is a weapon for anybody (RFC 5358). *)
module Make (Stack : Tcpip.Stack.V4V6) (Known : sig
  val networks : unit -> Ipaddr.Prefix.t list
  val zones : Dns_server.Primary.s
end) =
struct
  module Dns = Dns_mirage.Make (Stack)

  let is_client address = List.exists (Ipaddr.Prefix.mem address) (Known.networks ())

  (* An answer is no question (RFC 1035, 4.1.1: QR). Two servers that answer each other's answers, or one that is given
     its own address as the asker's, never stop (CVE-2024-2169). *)
  let is_question packet = Cstruct.length packet > 2 && Cstruct.get_uint8 packet 2 land 0x80 = 0

  (* Nobody may change the zones or be told of a change, so what else comes of a question is nothing. *)
  let answers proto address port question =
    let now = Mirage_ptime.now () and elapsed = Mirage_mtime.elapsed_ns () in
    let question = Cstruct.to_string question in
    let _, answers, _, _, _ = Dns_server.Primary.handle_buf Known.zones now elapsed proto address port question in
    List.map Cstruct.of_string answers

  include (
    Stack :
      Tcpip.Stack.V4V6 with type t = Stack.t and module IP = Stack.IP and module UDP := Stack.UDP and module TCP := Stack.TCP)

  module UDP = struct
    include Stack.UDP

    let listen udp ~port:listened callback =
      Stack.UDP.listen udp ~port:listened (fun ~src ~dst ~src_port question ->
          if listened <> port then callback ~src ~dst ~src_port question
          else if not (is_question question) then Lwt.return_unit
          else if is_client src then callback ~src ~dst ~src_port question
          else
            let send answer = Stack.UDP.write ~src_port:port ~dst:src ~dst_port:src_port udp answer >|= ignore in
            Lwt_list.iter_s send (answers `Udp src src_port question))
  end

  module TCP = struct
    include Stack.TCP

    let rec serve flow questions =
      let address, port = Stack.TCP.dst flow in
      Dns.read_tcp questions >>= function
      | Error () -> Stack.TCP.close flow
      | Ok question -> (
          Dns.send_tcp_multiple flow (answers `Tcp address port question) >>= function
          | Error () -> Stack.TCP.close flow
          | Ok () -> serve flow questions)

    let listen tcp ~port:listened ?keepalive callback =
      Stack.TCP.listen tcp ~port:listened ?keepalive (fun flow ->
          if listened <> port || is_client (fst (Stack.TCP.dst flow)) then callback flow
          else serve flow (Dns.of_flow flow))
  end
end

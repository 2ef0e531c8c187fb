(* Every question to all forwarders at once; the first that knows has answered it. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let port = 53

(* RFC 1035, 4.1.1. *)
let is_answer ~question answer =
  Cstruct.length answer >= Message.header && Message.id answer = Message.id question && Message.is_answer answer

(* NOERROR and NXDOMAIN say what there is; all else, that this one can't tell, and another one may. *)
let says_something answer = match Message.code answer with 0 | 3 -> true | _ -> false

(* [Stack] for a stub that asks one server over UDP, the first of [servers]: all of them are asked, and what one has to say
   that is too long for UDP is fetched over TCP. The stub has each question wait for its answer on a port of its own. *)
module Make (Stack : Tcpip.Stack.V4V6) (Known : sig
  val servers : Ipaddr.t list
  val tcp : Stack.TCP.t
end) =
struct
  module Dns = Dns_mirage.Make (Stack)

  type asked = { question : Cstruct.t; mutable silent : int  (** servers that have said nothing yet *) }

  let by_port : (int, asked) Hashtbl.t = Hashtbl.create 7
  let first = List.hd Known.servers
  let is address other = Ipaddr.compare address other = 0

  (* As long as the stub waits for an answer. *)
  let bound = Duration.of_sec 5

  let over_tcp server question =
    Stack.TCP.create_connection Known.tcp (server, port) >>= function
    | Error _ -> Lwt.return_none
    | Ok flow ->
        let answer =
          Dns.send_tcp flow question >>= function
          | Error () -> Lwt.return_none
          | Ok () -> Dns.read_tcp (Dns.of_flow flow) >|= Result.to_option
        in
        Lwt.pick [ answer; (Mirage_sleep.ns bound >|= fun () -> None) ] >>= fun answer ->
        Stack.TCP.close flow >|= fun () -> answer

  include (
    Stack :
      Tcpip.Stack.V4V6 with type t = Stack.t and module IP = Stack.IP and module TCP = Stack.TCP and module UDP := Stack.UDP)

  module UDP = struct
    include Stack.UDP

    let write ?src ?src_port ?ttl ~dst ~dst_port udp question =
      match src_port with
      | Some own when own <> port && dst_port = port && is dst first ->
          Hashtbl.replace by_port own { question; silent = List.length Known.servers };
          let ask dst = Stack.UDP.write ?src ~src_port:own ?ttl ~dst ~dst_port udp question >|= ignore in
          (* A dead neighbour has no address to send to for seconds: nobody waits for it. *)
          Lwt.async (fun () -> Lwt_list.iter_p ask Known.servers);
          Lwt.return_ok ()
      | _ -> Stack.UDP.write ?src ?src_port ?ttl ~dst ~dst_port udp question

    let listen udp ~port:listened callback =
      if listened = port then Stack.UDP.listen udp ~port callback
      else
        Stack.UDP.listen udp ~port:listened (fun ~src ~dst ~src_port answer ->
            match Hashtbl.find_opt by_port listened with
            | Some asked when src_port = port && List.exists (is src) Known.servers && is_answer ~question:asked.question answer
              -> (
                let give = callback ~src:first ~dst ~src_port in
                asked.silent <- asked.silent - 1;
                if says_something answer && Message.is_cut_short answer then
                  over_tcp src asked.question >>= function Some whole -> give whole | None -> give answer
                else if says_something answer || asked.silent = 0 then give answer
                else Lwt.return_unit)
            | _ -> Lwt.return_unit)

    let unlisten udp ~port =
      Hashtbl.remove by_port port;
      Stack.UDP.unlisten udp ~port
  end
end

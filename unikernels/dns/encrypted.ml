(* DNS over TLS: RFC 7858. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let port = 853
let prefix = "; tls "

(* At once, for each takes the CPU for milliseconds; and of these from one address, of IPv6 from one /64. *)
let max_handshakes = 32
let max_of_one = 8

(* Seconds: for a handshake, and of silence. *)
let to_shake = 10
let to_ask = 30
let ( let* ) = Result.bind

(* The certificate of a disk: lines of PEM, the server's own, those that signed it, and its key. *)
let of_text text =
  let of_pem pem =
    let* certificates = X509.Certificate.decode_pem_multiple pem in
    let* key = X509.Private_key.decode_pem pem in
    Tls.Config.server ~certificates:(`Single (certificates, key)) ()
  in
  match Secondaries.lines ~prefix text with
  | [] -> None
  | lines -> (
      match of_pem (String.concat "\n" (List.map snd lines) ^ "\n") with
      | Ok config -> Some config
      | Error (`Msg words) -> Fmt.failwith "--zone-block: the certificate can't be served: %s" words)

module Make (Stack : Tcpip.Stack.V4V6) = struct
  module TLS = Tls_mirage.Make (Stack.TCP)

  let within seconds attempt = Lwt.pick [ attempt; (Mirage_sleep.ns (Duration.of_sec seconds) >|= fun () -> None) ]
  let handshakes : (string, int) Hashtbl.t = Hashtbl.create 7
  let of_owner owner = Option.value (Hashtbl.find_opt handshakes owner) ~default:0

  let owner address =
    let octets = Ipaddr.to_octets address in
    match address with Ipaddr.V4 _ -> octets | V6 _ -> String.sub octets 0 8

  (* None for a client that does not shake hands in time, or is one of too many. *)
  let shake config flow =
    let owner = owner (fst (Stack.TCP.dst flow)) in
    let add count =
      let count = of_owner owner + count in
      if count = 0 then Hashtbl.remove handshakes owner else Hashtbl.replace handshakes owner count
    in
    let all = Hashtbl.fold (fun _ count sum -> count + sum) handshakes 0 in
    if of_owner owner >= max_of_one || all >= max_handshakes then Lwt.return_none
    else begin
      add 1;
      Lwt.finalize
        (fun () -> within to_shake (TLS.server_of_flow config flow >|= Result.to_option))
        (fun () -> Lwt.return (add (-1)))
    end

  (* So many bytes, and what is left of those that were read. *)
  let rec bytes tls count got =
    if Cstruct.length got >= count then Lwt.return_some (Cstruct.split got count)
    else
      TLS.read tls >>= function
      | Ok (`Data data) -> bytes tls count (Cstruct.append got data)
      | Ok `Eof | Error _ -> Lwt.return_none

  let message tls got =
    bytes tls 2 got >>= function
    | None -> Lwt.return_none
    | Some (length, got) -> bytes tls (Cstruct.BE.get_uint16 length 0) got

  let send tls answer =
    let length = Cstruct.create 2 in
    Cstruct.BE.set_uint16 length 0 (Cstruct.length answer);
    if Cstruct.length answer >= Message.header then
      Counted.answers (Fmt.str "transport=\"tls\",code=\"%d\"" (Message.code answer));
    TLS.writev tls [ length; answer ] >|= Result.is_ok

  (* One question after the other: a client that asks more at once waits, and holds nobody else up. *)
  let rec exchange answer client tls got =
    within to_ask (message tls got) >>= function
    | Some (question, got) when Cstruct.length question >= Message.header && not (Message.is_answer question) ->
        answer client question >>= Lwt_list.for_all_s (send tls) >>= fun is_open ->
        if is_open then exchange answer client tls got else Lwt.return_unit
    | Some _ | None -> Lwt.return_unit

  (* [answer]: of a client, by address and port, to a question. *)
  let start stack config answer =
    Stack.TCP.listen (Stack.tcp stack) ~port (fun flow ->
        Counted.questions {|transport="tls"|};
        Lwt.finalize
          (fun () ->
            shake config flow >>= function
            | None -> Lwt.return_unit
            | Some tls -> exchange answer (Stack.TCP.dst flow) tls Cstruct.empty >>= fun () -> TLS.close tls)
          (fun () -> Stack.TCP.close flow))
end

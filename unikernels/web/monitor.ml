(* The counters, over HTTP, for those alone that may read them. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module K = struct
  open Cmdliner

  let port =
    let doc = "Port for metrics in Prometheus' text format, over HTTP. There are none without it." in
    Mirage_runtime.register_arg Arg.(value & opt (some int) None (info ~doc ~docv:"PORT" [ "metrics-port" ]))

  let from =
    let doc = "A network that may read the metrics; may be given again. All others' connections to the port are ignored." in
    let network = Arg.conv (Ipaddr.Prefix.of_string, Ipaddr.Prefix.pp) in
    Mirage_runtime.register_arg Arg.(value & opt_all network [] (info ~doc ~docv:"NETWORK" [ "metrics-from" ]))
end

(* Readers at once, bytes of a request, and how long one may take to ask and to read. *)
let most = 4
let longest = 4_096
let patience = Duration.of_sec 5

let reply status text =
  Fmt.str "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
    status (String.length text) text

(* To the whole head of a request, of which the first line counts: RFC 9112, 3. *)
let answer head =
  match String.split_on_char ' ' (List.hd (String.split_on_char '\r' head)) with
  | [ "GET"; path; version ] when String.starts_with ~prefix:"HTTP/1." version ->
      if List.hd (String.split_on_char '?' path) = "/metrics" then reply "200 OK" (Counters.text ())
      else reply "404 Not Found" "metrics are at /metrics\n"
  | [ _; _; version ] when String.starts_with ~prefix:"HTTP/1." version -> reply "405 Method Not Allowed" "only GET is answered\n"
  | _ -> reply "400 Bad Request" "this is no request\n"

let ends_head text =
  let from = String.length text - 4 in
  from >= 0 && String.sub text from 4 = "\r\n\r\n"

module Make (Stack : Tcpip.Stack.V4V6) = struct
  let rec head flow text =
    if ends_head text then Lwt.return_some text
    else if String.length text > longest then Lwt.return_none
    else
      Stack.TCP.read flow >>= function
      | Ok (`Data data) -> head flow (text ^ Cstruct.to_string data)
      | Ok `Eof | Error _ -> Lwt.return_none

  let exchange flow =
    head flow "" >>= function
    | None -> Lwt.return_unit
    | Some head -> Stack.TCP.write flow (Cstruct.of_string (answer head)) >|= ignore

  let readers = ref 0

  let serve flow =
    if !readers >= most then Stack.TCP.close flow
    else begin
      incr readers;
      Lwt.finalize
        (fun () -> Lwt.pick [ exchange flow; Mirage_sleep.ns patience ])
        (fun () ->
          decr readers;
          Stack.TCP.close flow)
    end

  let start stack =
    match K.port () with
    | None -> ()
    | Some port ->
        Bounded.restricted := (port, K.from ()) :: !Bounded.restricted;
        Stack.TCP.listen (Stack.tcp stack) ~port serve
end

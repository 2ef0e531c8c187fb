(* The log, to a server as well: RFC 5424 over UDP (RFC 5426). It makes nobody wait, and says nothing of itself.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module K = struct
  open Cmdliner

  let server =
    let doc = "Send the log to this server, too, over UDP." in
    let address = Arg.conv (Ipaddr.of_string, Ipaddr.pp) in
    Mirage_runtime.register_arg Arg.(value & opt (some address) None (info ~doc ~docv:"ADDRESS" [ "syslog" ]))

  let port =
    Mirage_runtime.register_arg Arg.(value & opt int 514 (info ~doc:"The server's port." ~docv:"PORT" [ "syslog-port" ]))
end

(* Lines a second, lines that wait because the server's Ethernet address is looked for, bytes of a line: one frame. *)
let most = 50
let most_waiting = 100
let longest = 1_200

(* Who carries a line there would have one to say of each. *)
let carries source =
  List.exists
    (fun prefix -> String.starts_with ~prefix source)
    [ "tcp"; "udp"; "ipv4"; "ipv6"; "ndp"; "icmp"; "arp"; "ARP"; "ethernet"; "net-xen" ]

(* Of the facility "daemon": RFC 5424, 6.2.1. *)
let priority level = (3 * 8) + match level with Logs.Error -> 3 | Warning -> 4 | App -> 5 | Info -> 6 | Debug -> 7

(* Name and application have no space, a message is one line. *)
let line level source text =
  let printable c = if c < ' ' || c = '\127' then ' ' else c in
  let word text = String.map (fun c -> if c > ' ' && c < '\127' then c else '-') text in
  let time = Ptime.to_rfc3339 ~frac_s:3 ~tz_offset_s:0 (Mirage_ptime.now ()) in
  let line = Fmt.str "<%d>1 %s %s %s - - - " (priority level) time (word (Mirage_runtime.name ())) (word source) in
  let line = line ^ String.map printable text in
  String.sub line 0 (min longest (String.length line))

let waiting : string Queue.t = Queue.create ()
let arrived = Lwt_condition.create ()

(* What was taken in this second, and what had to be left out since it was last said. *)
let second = ref 0
let taken = ref 0
let left_out = ref 0

let push line =
  Queue.push line waiting;
  Lwt_condition.signal arrived ()

let take level source text =
  let now = Bounded.seconds () in
  if now <> !second then begin
    second := now;
    taken := 0
  end;
  if !taken >= most || Queue.length waiting >= most_waiting then incr left_out
  else begin
    incr taken;
    if !left_out > 0 then push (line Warning "syslog" (Fmt.str "%d lines were left out" !left_out));
    left_out := 0;
    push (line level source text)
  end

let report source level ~over k messages =
  messages @@ fun ?header:_ ?tags:_ format ->
  Fmt.kstr
    (fun text ->
      let source = Logs.Src.name source in
      if not (carries source) then take level source text;
      over ();
      k ())
    format

let beside (console : Logs.reporter) =
  let report source level ~over k messages =
    let printed = console.report source level ~over:ignore k messages in
    report source level ~over (fun () -> printed) messages
  in
  { Logs.report }

module Make (Stack : Tcpip.Stack.V4V6) = struct
  let rec send udp server =
    (if Queue.is_empty waiting then Lwt_condition.wait arrived else Lwt.return_unit) >>= fun () ->
    let write () = Stack.UDP.write ~dst:server ~dst_port:(K.port ()) udp (Cstruct.of_string (Queue.pop waiting)) >|= ignore in
    (if Queue.is_empty waiting then Lwt.return_unit else Lwt.catch write (fun _ -> Lwt.return_unit)) >>= fun () -> send udp server

  let start stack =
    match K.server () with
    | None -> ()
    | Some server ->
        Logs.set_reporter (beside (Logs.reporter ()));
        Lwt.async (fun () -> send (Stack.udp stack) server)
end

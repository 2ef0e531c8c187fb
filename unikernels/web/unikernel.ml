(* A web server over files that are part of its image or on a disk. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module K = struct
  open Cmdliner

  let port =
    let described = Arg.info ~doc:"Port for HTTP." ~docv:"PORT" [ "port" ] in
    Mirage_runtime.register_arg Arg.(value & opt int 80 described)

  let https_port =
    let doc = "Port for HTTPS. Certificates, each chain followed by its key, in PEM, are on the domain's first disk." in
    Mirage_runtime.register_arg Arg.(value & opt (some int) None (info ~doc ~docv:"PORT" [ "https-port" ]))

  let redirect =
    let doc = "Send who asks over HTTP to HTTPS, on its usual port 443." in
    Mirage_runtime.register_arg Arg.(value & opt bool false (info ~doc ~docv:"BOOL" [ "https-redirect" ]))

  let hsts =
    let doc = "Seconds for which browsers shall ask for this host over HTTPS alone (RFC 6797)." in
    Mirage_runtime.register_arg Arg.(value & opt (some int) None (info ~doc ~docv:"SECONDS" [ "hsts" ]))

  let content_disk =
    let doc = "Serve the files of the tar archive on the second disk, in place of those in the image." in
    Mirage_runtime.register_arg Arg.(value & opt bool false (info ~doc ~docv:"BOOL" [ "content-disk" ]))

  let headers =
    let doc = "Send this header with what is below PATH. Of two with one name the last counts." in
    let rule = Arg.conv (Site.rule_of_string, Site.pp_rule) in
    Mirage_runtime.register_arg Arg.(value & opt_all rule [] (info ~doc ~docv:"PATH=NAME: VALUE" [ "header" ]))

  let hosts =
    let doc = "Serve the folder FOLDER of the files to who asks for the host NAME." in
    Mirage_runtime.register_arg
      Arg.(value & opt_all (pair ~sep:'=' string string) [] (info ~doc ~docv:"NAME=FOLDER" [ "host" ]))

  let access_log =
    let doc = "Print a line for each request, of at most 50 a second. They fill the disk of who keeps the console." in
    Mirage_runtime.register_arg Arg.(value & opt bool false (info ~doc ~docv:"BOOL" [ "access-log" ]))
end

let log = Logs.Src.create "web"

module Log = (val Logs.src_log log)

let answered = Counters.counter "web_answers_total" "Answers to requests, by status."
let failed = Counters.counter "web_errors_total" "Connections with an error: no request, one of TLS or TCP, or ours."

let ( let* ) = Result.bind

(* The chains of a PEM text, each with its key behind it. *)
let chains text =
  let ends_key line = String.starts_with ~prefix:"-----END " line && String.ends_with ~suffix:"PRIVATE KEY-----" line in
  let rec from lines taken =
    match lines with
    | [] -> Ok []
    | line :: rest when ends_key (String.trim line) ->
        let pem = String.concat "\n" (List.rev (line :: taken)) ^ "\n" in
        let* certificates = X509.Certificate.decode_pem_multiple pem in
        let* key = X509.Private_key.decode_pem pem in
        let* others = from rest [] in
        Ok ((certificates, key) :: others)
    | line :: rest -> from rest (line :: taken)
  in
  from (String.split_on_char '\n' text) []

(* Who asks for a name gets the chain that is for it, who asks for none or another the first. *)
let tls_of_pem text =
  let* chains = chains text in
  let* certificates =
    match chains with
    | [] -> Error (`Msg "there is no private key")
    | [ one ] -> Ok (`Single one)
    | first :: rest -> Ok (`Multiple_default (first, rest))
  in
  Tls.Config.server ~alpn_protocols:[ "http/1.1" ] ~certificates ()

module Main (Stack : Tcpip.Stack.V4V6) (Files : Mirage_kv.RO) = struct
  module Stack = Lifecycle.Make (Stack)
  module Syslog = Syslog.Make (Stack)
  module Monitor = Monitor.Make (Stack)
  module Paf = Paf_mirage.Make (Stack.TCP)
  module Compiled = Compiled.Make (Files)

  (* What a client is slow to take stands in memory piece by piece, not file by file. *)
  let piece = 4_096

  let rec send reqd writer read at left =
    if left = 0 then H1.Body.Writer.close writer
    else
      let size = min piece left in
      Lwt.on_any (read at size)
        (fun text ->
          H1.Body.Writer.write_string writer text;
          H1.Body.Writer.flush_with_reason writer (function
            | `Written -> send reqd writer read (at + size) (left - size)
            | `Closed -> ()))
        (H1.Reqd.report_exn reqd)

  (* Of what is printed in this second. *)
  let printed = ref (0L, 0)

  let note client { H1.Request.meth; target; _ } status length =
    let second = Int64.div (Mirage_mtime.elapsed_ns ()) 1_000_000_000L in
    let lines = if fst !printed = second then snd !printed else 0 in
    printed := (second, lines + 1);
    if lines < 50 then
      Log.app (fun f -> f "%a %a %S %a %d" Ipaddr.pp client H1.Method.pp_hum meth target H1.Status.pp_hum status length)

  let answer (files, hosts) ~secure request =
    let answer () = Site.answer (K.headers ()) (Site.of_host hosts files request) request in
    match H1.Headers.get request.H1.Request.headers "host" with
    | _ when secure -> (
        answer () >|= fun answer ->
        match K.hsts () with
        | None -> answer
        | Some seconds ->
            { answer with headers = ("strict-transport-security", Fmt.str "max-age=%d" seconds) :: answer.headers })
    | Some host when K.redirect () -> Lwt.return (Site.to_https ~host request.target)
    | _ -> answer ()

  let respond ~secure files (client, _port) reqd =
    let request = H1.Reqd.request reqd in
    Lwt.async @@ fun () ->
    Lwt.catch
      (fun () -> answer files ~secure request)
      (fun exn ->
        Log.err (fun f -> f "%a %S: %s" Ipaddr.pp client request.target (Printexc.to_string exn));
        Lwt.return (Site.plain `Internal_server_error "Internal server error\n"))
    >|= fun { Site.status; headers; read; first; length } ->
    answered (Fmt.str "code=\"%d\"" (H1.Status.to_code status));
    if K.access_log () then note client request status length;
    let headers = if !Bounded.closing then ("connection", "close") :: headers else headers in
    let response = H1.Response.create ~headers:(H1.Headers.of_list headers) status in
    if request.meth = `HEAD || length = 0 then H1.Reqd.respond_with_string reqd response ""
    else send reqd (H1.Reqd.respond_with_streaming reqd response) read first length

  let on_error (client, _port) ?request:_ error respond =
    let words =
      match error with
      | `Bad_request -> "Bad request"
      | `Bad_gateway | `Internal_server_error -> "Internal server error"
      | `Exn exn -> Printexc.to_string exn
    in
    Log.warn (fun f -> f "%a: %s" Ipaddr.pp client words);
    failed (match error with `Bad_request -> {|cause="request"|} | `Exn _ -> {|cause="connection"|} | _ -> {|cause="server"|});
    H1.Body.Writer.close (respond (H1.Headers.of_list [ ("content-length", "0"); ("connection", "close") ]))

  let serve stack port service =
    Paf.init ~port (Stack.tcp stack) >|= fun listening ->
    let (`Initialized serving) = Paf.serve service listening in
    serving

  let start stack compiled =
    Syslog.start stack;
    Monitor.start stack;
    (if K.content_disk () then Archive.files () else Lwt.return (Compiled.files compiled)) >>= fun files ->
    let files = (files, List.map (fun (name, folder) -> (name, Site.below folder files)) (K.hosts ())) in
    let http = Paf.http_service ~error_handler:on_error (fun _flow client -> respond ~secure:false files client) in
    serve stack (K.port ()) http >>= fun serving ->
    (match K.https_port () with
    | None -> Lwt.return_unit
    | Some port -> (
        Disk.text () >>= fun pem ->
        match tls_of_pem pem with
        | Error (`Msg words) -> Fmt.failwith "--https-port: certificate and key on the disk: %s" words
        | Ok tls ->
            let https = Paf.https_service ~tls ~error_handler:on_error (fun _flow client -> respond ~secure:true files client) in
            serve stack port https >|= fun _serving ->
            Log.app (fun f -> f "web: HTTPS on port %d" port)))
    >>= fun () ->
    Log.app (fun f -> f "web: ready on port %d" (K.port ()));
    Lwt.pick [ serving; Stack.until_shutdown ~patient:true ]
end

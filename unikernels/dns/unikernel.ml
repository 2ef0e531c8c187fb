(* A DNS resolver, recursive or forwarding, that answers for zones of its own. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module K = struct
  open Cmdliner

  let forward =
    let doc = "Ask this server instead of the root's; of several, all, and the first that knows has answered." in
    let described = Arg.info ~doc ~docv:"ADDRESS" [ "forward" ] in
    Mirage_runtime.register_arg Arg.(value & opt_all Mirage_runtime_network.Arg.ip_address [] described)

  let clients =
    let doc = "Resolve for this network too, beside its own; may be given again. All others get what is in the zones." in
    let network = Arg.conv (Ipaddr.Prefix.of_string, Ipaddr.Prefix.pp) in
    Mirage_runtime.register_arg Arg.(value & opt_all network [] (info ~doc ~docv:"NETWORK" [ "client" ]))

  let zone_block =
    let doc = "Answer for the zones (zone file format, each with its SOA) on the domain's first disk." in
    let described = Arg.info ~doc ~docv:"BOOL" [ "zone-block" ] in
    Mirage_runtime.register_arg Arg.(value & opt bool false described)

  let cache_size =
    let described = Arg.info ~doc:"Answers that are kept." ~docv:"COUNT" [ "cache-size" ] in
    Mirage_runtime.register_arg Arg.(value & opt int 10_000 described)
end

(* The zones of a text in zone file format; one that no resolver could serve ends the domain, with the reason. What signs them is
   added when they are checked, for no check of the library knows of it. *)
let trie_of_zones text =
  let signatures, text = Wire.of_text text in
  match Dns_zone.parse text with
  | Error (`Msg words) -> Fmt.failwith "--zone-block: %s" words
  | Ok zones -> (
      let trie = Dns_trie.insert_map zones Dns_trie.empty in
      match Dns_trie.check trie with
      | Ok () -> List.fold_left (fun trie records -> Dns_trie.insert_map records trie) trie signatures
      | Error error -> Fmt.failwith "--zone-block: %a" Dns_trie.pp_zone_check error)

let zones_of trie = Dns_trie.fold Dns.Rr_map.Soa trie (fun zone soa zones -> (zone, soa) :: zones) []

module Main (Stack : Tcpip.Stack.V4V6) = struct
  module Served = Lifecycle.Make (Stack)
  module Syslog = Syslog.Make (Served)
  module Monitor = Monitor.Make (Served)
  module Stack = Counted.Make (Served)

  (* A line for each malformed question is a stranger's to choose; who asks for debugging wants them. *)
  let quiet src =
    let is_dns = String.starts_with ~prefix:"dns" (Logs.Src.name src) in
    if is_dns && Logs.Src.level src <> Some Logs.Debug then Logs.Src.set_level src (Some Logs.App)

  let start stack =
    Syslog.start stack;
    Monitor.start stack;
    List.iter quiet (Logs.Src.list ());
    (if K.zone_block () then Disk.text () else Lwt.return "") >>= fun text ->
    let own = if K.zone_block () then trie_of_zones text else Dns_trie.empty in
    let secondaries = Secondaries.of_text text and primaries = Primaries.of_text text and tls = Encrypted.of_text text in
    let rng = Mirage_crypto_rng.generate in
    (* Whoever asks the library for a whole zone gets nothing: see transfer.ml. *)
    let serve trie = Dns_server.Primary.create ~trie_cache_entries:0 ~unauthenticated_zone_transfer:false ~rng trie in
    let served = ref (serve own) and answers = ref (Answers.of_trie own) in
    let resolve = ref (fun _ _ -> Lwt.return `Close) in
    let cache_size = K.cache_size () in
    let module Transferred = Transferred.Make (Stack) in
    let module Encrypted = Encrypted.Make (Stack) in
    let module Stack = Clients.Make (Stack) (struct
      let networks () = Stack.IP.configured_ips (Stack.ip stack) @ K.clients ()
      let zones () = !served
      let answers () = !answers
      let resolve from question = !resolve from question
      let secondaries = secondaries
      let primaries = primaries
    end) in
    let encrypt () = Option.iter (fun config -> Encrypted.start stack config Stack.over_tls) tls in
    let module Notify = Notify.Make (Stack) in
    (match K.forward () with
    | [] ->
        let now = Mirage_ptime.now () and elapsed = Mirage_mtime.elapsed_ns () in
        let resolver = Dns_resolver.create ~cache_size ~record_clients:false [ `Qname_minimisation ] now elapsed rng !served in
        let module Recursive = Dns_resolver_mirage.Make (Stack) in
        let recursive = Recursive.resolver stack ~root:true resolver in
        (resolve := Recursive.resolve_external recursive);
        let change changed = Recursive.update_primary_data recursive (changed (Recursive.primary_data recursive)) in
        Lwt.return ("asks the root's servers", change)
    | first :: _ as servers ->
        let module Stack = Forwarders.Make (Stack) (struct
          let servers = servers
          let tcp = Stack.tcp stack
        end) in
        let nameservers = [ "udp:" ^ Ipaddr.to_string first ] in
        let module Forwarding = Dns_stub_mirage.Make (Stack) in
        Forwarding.H.connect_device stack >>= fun happy_eyeballs ->
        Forwarding.create ~cache_size ~record_clients:false ~nameservers !served ~happy_eyeballs stack >|= fun forwarding ->
        (resolve := Forwarding.resolve_external forwarding);
        let change changed = Forwarding.update_primary_data forwarding (changed (Forwarding.primary_data forwarding)) in
        ("forwards to " ^ String.concat ", " (List.map Ipaddr.to_string servers), change))
    >>= fun (does, change) ->
    Logs.app (fun f -> f "dns: ready, %s" does);
    let announce = Notify.announce (Stack.udp stack) secondaries in
    announce (zones_of own);
    encrypt ();
    Transferred.start
      {
        stack;
        zones = primaries;
        names = List.map fst (zones_of own) @ List.map (fun { Primaries.name; _ } -> name) primaries;
        (* The resolver has them beside zones of its own, and those who are no clients are answered from them alone. *)
        change =
          (fun changed ->
            let trie = changed (Dns_server.Primary.data !served) in
            served := serve trie;
            answers := Answers.of_trie trie;
            change changed);
        announce = (fun zone -> announce [ zone ]);
      };
    Served.until_shutdown ~patient:true
end

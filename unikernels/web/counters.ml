(* What is counted, and the text that Prometheus reads (its exposition format 0.0.4). SPDX-License-Identifier: GPL-3.0-or-later *)

type family = { name : string; help : string; kind : string; values : unit -> (string * int) list  (** by labels *) }

let families : family list ref = ref []
let register kind name help values = families := { name; help; kind; values } :: !families

(* [read] is asked for its value whenever somebody reads it. *)
let gauge name help read = register "gauge" name help read
let total name help read = register "counter" name help read

(* One to count with. No label's value is a client's to choose: each takes memory until the end. *)
let counter name help =
  let values : (string, int) Hashtbl.t = Hashtbl.create 7 in
  total name help (fun () -> List.sort compare (Hashtbl.fold (fun labels value all -> (labels, value) :: all) values []));
  fun ?(by = 1) labels -> Hashtbl.replace values labels (by + Option.value ~default:0 (Hashtbl.find_opt values labels))

let text () =
  let line name (labels, value) = Fmt.str "%s%s %d\n" name (if labels = "" then "" else "{" ^ labels ^ "}") value in
  let family { name; help; kind; values } =
    Fmt.str "# HELP %s %s\n# TYPE %s %s\n%s" name help name kind (String.concat "" (List.map (line name) (values ())))
  in
  String.concat "" (List.rev_map family !families)

let bytes words = words * (Sys.word_size / 8)

let () =
  gauge "unikernel_uptime_seconds" "Since the domain has run." (fun () ->
      [ ("", Int64.to_int (Int64.div (Mirage_mtime.elapsed_ns ()) 1_000_000_000L)) ]);
  gauge "unikernel_heap_bytes" "OCaml's heap." (fun () -> [ ("", bytes (Gc.quick_stat ()).heap_words) ]);
  gauge "unikernel_memory_bytes" "The domain's memory beyond its image, stack excluded." (fun () ->
      let { Xen_os.Memory.heap_words; live_words; free_words; _ } = Xen_os.Memory.quick_stat () in
      [ ({|of="all"|}, bytes heap_words); ({|of="used"|}, bytes live_words); ({|of="free"|}, bytes free_words) ]);
  total "unikernel_log_lines_total" "Lines of the log that report an error or a warning." (fun () ->
      [ ({|level="error"|}, Logs.err_count ()); ({|level="warning"|}, Logs.warn_count ()) ])

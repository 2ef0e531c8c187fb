(* What a request gets: which bytes of which file, as which status. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

(** [read first length] are so many of its bytes. *)
type file = { size : int; tag : string; read : int -> int -> string Lwt.t }

(** Where files are from: the image (compiled.ml) or a disk (archive.ml). *)
type files = { find : Mirage_kv.Key.t -> file option Lwt.t; is_folder : Mirage_kv.Key.t -> bool Lwt.t }

(** The body is [length] bytes, from byte [first] on. *)
type answer = {
  status : H1.Status.t;
  headers : (string * string) list;
  read : int -> int -> string Lwt.t;
  first : int;
  length : int;
}

let sized length headers = ("content-length", string_of_int length) :: headers
let of_text text first length = Lwt.return (String.sub text first length)
let nothing = of_text ""
let whole status headers { size; read; _ } = { status; headers = sized size headers; read; first = 0; length = size }

let plain status text =
  whole status [ ("content-type", "text/plain; charset=utf-8") ] { size = String.length text; tag = ""; read = of_text text }

(* One range of RFC 9110, 14.1.2, as first and last byte of [size]. More than one, or another unit, is not for us and
   the whole file is sent, as that section allows. *)
let range size words =
  let number text = if text <> "" && String.for_all (fun c -> c >= '0' && c <= '9') text then int_of_string_opt text else None in
  match String.split_on_char '=' words with
  | [ "bytes"; one ] -> (
      match String.split_on_char '-' one with
      | [ ""; count ] -> (
          match number count with
          | None -> `Whole
          | Some count when count = 0 || size = 0 -> `Unsatisfiable
          | Some count -> `Part (max 0 (size - count), size - 1))
      | [ first; last ] -> (
          match (number first, number last) with
          | Some first, _ when first >= size && (last = "" || number last <> None) -> `Unsatisfiable
          | Some first, None when last = "" -> `Part (first, size - 1)
          | Some first, Some last when first <= last -> `Part (first, min last (size - 1))
          | _ -> `Whole)
      | _ -> `Whole)
  | _ -> `Whole

let lists_tag tag words =
  List.exists
    (fun one ->
      let one = String.trim one in
      one = "*" || one = tag || one = "W/" ^ tag)
    (String.split_on_char ',' words)

(* Percent-decoded (RFC 3986, 2.1); None when it can't be. *)
let decode text =
  let length = String.length text and decoded = Buffer.create (String.length text) in
  let digit c = match c with '0' .. '9' | 'a' .. 'f' | 'A' .. 'F' -> Some (int_of_string (Fmt.str "0x%c" c)) | _ -> None in
  let rec from at =
    if at = length then Some (Buffer.contents decoded)
    else if text.[at] <> '%' then (
      Buffer.add_char decoded text.[at];
      from (at + 1))
    else if at + 2 >= length then None
    else
      match (digit text.[at + 1], digit text.[at + 2]) with
      | Some high, Some low when high + low > 0 ->
          Buffer.add_char decoded (Char.chr ((16 * high) + low));
          from (at + 3)
      | _ -> None
  in
  from 0

(* The path that a request target names: in origin-form, or in absolute-form what follows the authority (RFC 9112, 3.2). Nothing
   else of a target means anything here, so nothing else is parsed. *)
let path_of target =
  let from at = String.sub target at (String.length target - at) in
  let lower = String.lowercase_ascii target in
  let scheme = List.find_opt (fun prefix -> String.starts_with ~prefix lower) [ "http://"; "https://" ] in
  let path =
    match scheme with
    | _ when String.starts_with ~prefix:"/" target -> Some target
    | None -> None
    | Some scheme -> (
        let start = String.length scheme in
        match String.index_from_opt target start '/' with
        | Some at when not (String.contains (String.sub target start (at - start)) '?') -> Some (from at)
        | _ -> Some "/")
  in
  Option.bind path (fun path -> decode (List.hd (String.split_on_char '?' path)))

(* The name in a Host header, without its port. *)
let name_of host =
  match (String.rindex_opt host ':', String.rindex_opt host ']') with
  | Some colon, Some bracket when colon < bracket -> host
  | Some colon, _ -> String.sub host 0 colon
  | None, _ -> host

(* The same on HTTPS' own port. What a client names as its host comes back to it, so it has to be one: a name or an address. *)
let to_https ~host target =
  let is_of_host c = match c with 'a' .. 'z' | 'A' .. 'Z' | '0' .. '9' | '.' | '-' | '_' | '[' | ']' | ':' -> true | _ -> false in
  let is_plain c = c > ' ' && c < '\127' in
  let name = name_of host in
  if name = "" || (not (String.for_all is_of_host name)) || not (String.for_all is_plain target) then plain `Bad_request "Bad request\n"
  else
    let path = if String.starts_with ~prefix:"/" target then target else "/" in
    let answer = plain `Moved_permanently "Moved\n" in
    { answer with headers = ("location", "https://" ^ name ^ path) :: answer.headers }

(* A header of what is below a path. *)
type rule = { below : string; header : string * string }

let rule_of_string text =
  let split at = (String.sub text 0 at, String.sub text (at + 1) (String.length text - at - 1)) in
  match Option.map split (String.index_opt text '=') with
  | Some (below, field) when String.starts_with ~prefix:"/" below && String.contains field ':' ->
      let colon = String.index field ':' in
      let value = String.trim (String.sub field (colon + 1) (String.length field - colon - 1)) in
      Ok { below; header = (String.lowercase_ascii (String.sub field 0 colon), value) }
  | _ -> Error (`Msg (Fmt.str "%S is not as in /assets/=cache-control: max-age=60" text))

let pp_rule ppf { below; header = name, value } = Fmt.pf ppf "%s=%s: %s" below name value

(* Of two rules with one name the last counts. Nothing is added where something went wrong: caches would keep that. *)
let with_rules rules key answer =
  let path = Mirage_kv.Key.to_string key in
  let add headers { below; header } =
    if String.starts_with ~prefix:below path then header :: List.remove_assoc (fst header) headers else headers
  in
  match answer.status with
  | `OK | `Partial_content | `Moved_permanently | `Not_modified ->
      { answer with headers = List.fold_left add answer.headers rules }
  | _ -> answer

(* The files of a folder, as if there were no others. *)
let below folder files =
  let inside key = Mirage_kv.Key.(v folder // key) in
  { find = (fun key -> files.find (inside key)); is_folder = (fun key -> files.is_folder (inside key)) }

(* [hosts]: name -> files. Who asks for another name gets the first ones. *)
let of_host hosts files request =
  let without_dot name = if String.ends_with ~suffix:"." name then String.sub name 0 (String.length name - 1) else name in
  match H1.Headers.get request.H1.Request.headers "host" with
  | None -> files
  | Some host -> Option.value ~default:files (List.assoc_opt (String.lowercase_ascii (without_dot (name_of host))) hosts)

let key path = Mirage_kv.Key.v (if String.ends_with ~suffix:"/" path then path ^ "index.html" else path)

(* Whether a client takes a content coding: RFC 9110, 12.5.3. *)
let accepts coding request =
  let words = Option.value ~default:"" (H1.Headers.get request.H1.Request.headers "accept-encoding") in
  let refused parameter =
    match String.split_on_char '=' (String.trim parameter) with
    | [ ("q" | "Q"); weight ] -> weight <> "" && String.for_all (fun c -> c = '0' || c = '.') weight
    | _ -> false
  in
  List.exists
    (fun item ->
      match String.split_on_char ';' item with
      | name :: parameters -> String.lowercase_ascii (String.trim name) = coding && not (List.exists refused parameters)
      | [] -> false)
    (String.split_on_char ',' words)

(* What stands beside a file is the same file, compressed. The best comes first. *)
let codings = [ ("br", ".br"); ("gzip", ".gz") ]

let variants files key =
  let beside (coding, suffix) =
    files.find (Mirage_kv.Key.v (Mirage_kv.Key.to_string key ^ suffix)) >|= Option.map (fun file -> (coding, file))
  in
  Lwt_list.filter_map_s beside codings

let file request key ~encoded { size; tag; read } =
  let header = H1.Headers.get request.H1.Request.headers in
  let of_both = encoded @ [ ("etag", tag) ] in
  let headers = ("content-type", Magic_mime.lookup (Mirage_kv.Key.basename key)) :: ("accept-ranges", "bytes") :: of_both in
  let wanted =
    match (header "range", header "if-range") with
    | Some words, (None | Some "") -> range size words
    | Some words, Some same when same = tag -> range size words
    | _ -> `Whole
  in
  match header "if-none-match" with
  | Some words when lists_tag tag words ->
      (* Without a length: 0 would be that of the file (RFC 9110, 8.6). *)
      { status = `Not_modified; headers = of_both; read = nothing; first = 0; length = 0 }
  | _ -> (
      match wanted with
      | `Whole -> whole `OK headers { size; tag; read }
      | `Part (first, last) ->
          let part = ("content-range", Fmt.str "bytes %d-%d/%d" first last size) and length = last - first + 1 in
          { status = `Partial_content; headers = sized length (part :: headers); read; first; length }
      | `Unsatisfiable ->
          let answer = plain `Range_not_satisfiable "Range not satisfiable\n" in
          { answer with headers = ("content-range", Fmt.str "bytes */%d" size) :: answer.headers })

(* The file itself, or a compressed one that stands beside it and that the client takes. Caches must keep them apart. *)
let best files request key plain =
  variants files key >|= function
  | [] -> file request key ~encoded:[] plain
  | beside -> (
      let vary = ("vary", "accept-encoding") in
      match List.find_opt (fun (coding, _) -> accepts coding request) beside with
      | Some (coding, variant) -> file request key ~encoded:[ ("content-encoding", coding); vary ] variant
      | None -> file request key ~encoded:[ vary ] plain)

(* Of a folder, its page: its links lead from the folder on. What others may have written for a missing page is sent. *)
let missing files key =
  files.is_folder key >>= function
  | true ->
      let part segment = Uri.pct_encode ~component:`Path segment in
      let location = String.concat "/" ("" :: List.map part (Mirage_kv.Key.segments key)) ^ "/" in
      let answer = plain `Moved_permanently "Moved\n" in
      Lwt.return { answer with headers = ("location", location) :: answer.headers }
  | false -> (
      files.find (Mirage_kv.Key.v "404.html") >|= function
      | Some page -> whole `Not_found [ ("content-type", "text/html") ] page
      | None -> plain `Not_found "Not found\n")

(* [answer rules files request] is the whole answer to GET; HEAD has the same without its body. *)
let answer rules files request =
  match request.H1.Request.meth with
  | `GET | `HEAD -> (
      match path_of request.target with
      | None -> Lwt.return (plain `Bad_request "Bad request\n")
      | Some path -> (
          let key = key path in
          (files.find key >>= function
           | Some found -> best files request key found
           | None -> missing files key)
          >|= with_rules rules key))
  | _ ->
      let answer = plain `Method_not_allowed "Method not allowed\n" in
      Lwt.return { answer with headers = ("allow", "GET, HEAD") :: answer.headers }

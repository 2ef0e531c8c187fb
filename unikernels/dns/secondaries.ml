(* Servers that hold copies of the zones, or that zones are transferred from, and the keys they sign with (TSIG, RFC 8945).
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns

type key = { name : [ `raw ] Domain_name.t; algorithm : Tsig.algorithm; secret : string  (** base64 *) }
type t = { address : Ipaddr.t; key : key option }

let ( let* ) = Result.bind
let prefix = "; secondary "
let max_lines = 100

let key_of name algorithm secret =
  let* name = Domain_name.of_string name in
  let* algorithm = Result.bind (Domain_name.of_string algorithm) Domain_name.host in
  let unknown (`Not_implemented _) = `Msg "an unknown algorithm" in
  let* algorithm = Result.map_error unknown (Tsig.algorithm_of_name algorithm) in
  let* (_ : string) = Base64.decode secret in
  Ok { name; algorithm; secret }

(* ADDRESS, or ADDRESS KEY ALGORITHM SECRET. *)
let of_words = function
  | [ address ] ->
      let* address = Ipaddr.of_string address in
      Ok { address; key = None }
  | [ address; name; algorithm; secret ] ->
      let* address = Ipaddr.of_string address in
      let* key = key_of name algorithm secret in
      Ok { address; key = Some key }
  | _ -> Error (`Msg "not an address, or an address with a key's name, algorithm and secret")

(* What a disk has before its first zone: the lines that begin with [prefix], without it, by their numbers. For a zone parser they
   are comments. *)
let lines ~prefix text =
  let size = String.length text in
  let rec from at number found =
    let stop = Option.value (String.index_from_opt text at '\n') ~default:size in
    let line = String.sub text at (stop - at) in
    if not (String.starts_with ~prefix:"; " line) then List.rev found
    else
      let after = String.length prefix in
      let is_one = String.starts_with ~prefix line in
      let found = if is_one then (number, String.sub line after (String.length line - after)) :: found else found in
      from (min (stop + 1) size) (number + 1) found
  in
  from 0 1 []

(* The secondaries of a disk. An error is not to show a secret on the console. *)
let of_text text =
  let lines = lines ~prefix text in
  if List.length lines > max_lines then Fmt.failwith "--zone-block: more than %d secondaries" max_lines;
  let secondary (number, line) =
    match of_words (String.split_on_char ' ' line) with
    | Ok secondary -> secondary
    | Error (`Msg _) -> Fmt.failwith "--zone-block: line %d is no secondary" number
  in
  List.map secondary lines

let at secondaries address = List.filter (fun secondary -> Ipaddr.compare secondary.address address = 0) secondaries

let dnskey { algorithm; secret; _ } =
  let algorithm =
    match algorithm with
    | Tsig.SHA1 -> Dnskey.SHA1
    | SHA224 -> SHA224
    | SHA256 -> SHA256
    | SHA384 -> SHA384
    | SHA512 -> SHA512
  in
  { Dnskey.flags = Dnskey.F.empty; algorithm; key = secret }

let mac { algorithm; secret; _ } data =
  let hash =
    match algorithm with Tsig.SHA1 -> `SHA1 | SHA224 -> `SHA224 | SHA256 -> `SHA256 | SHA384 -> `SHA384 | SHA512 -> `SHA512
  in
  let module Hash = (val Digestif.module_of_hash' hash) in
  Hash.to_raw_string (Hash.hmac_string ~key:(Base64.decode_exn secret) data)

(* RFC 8945, 4.3.3: the timers, which is all that the signature of a second message has of its record. *)
let timers tsig =
  let bytes = Bytes.create 8 in
  let seconds = Option.value (Ptime.Span.to_int_s (Ptime.to_span tsig.Tsig.signed)) ~default:0 in
  Bytes.set_uint16_be bytes 0 (seconds lsr 32);
  Bytes.set_int32_be bytes 2 (Int32.of_int (seconds land 0xffffffff));
  Bytes.set_uint16_be bytes 6 (Option.value (Ptime.Span.to_int_s tsig.fudge) ~default:300);
  Bytes.to_string bytes

let with_length mac =
  let length = Bytes.create 2 in
  Bytes.set_uint16_be length 0 (String.length mac);
  Bytes.to_string length ^ mac

(* [messages], which follow one another, signed as the answer to what had the signature [request]. The library signs each one
   as if it were the first, and no client takes a zone of more than 64 KiB from it. With the last signature. *)
let signed key ~now ?request messages =
  let sign (previous, first, signed) message =
    match Tsig.tsig ~algorithm:key.algorithm ~signed:now ~original_id:(String.get_uint16_be message 0) () with
    | None -> (previous, first, signed)
    | Some tsig ->
        let own = if first then Tsig.encode_raw key.name tsig else timers tsig in
        let mac = mac key (previous ^ message ^ own) in
        let whole = Bytes.of_string message in
        Bytes.set_uint16_be whole 10 (Bytes.get_uint16_be whole 10 + 1);
        (with_length mac, false, (Bytes.to_string whole ^ Tsig.encode_full key.name (Tsig.with_mac tsig mac)) :: signed)
  in
  let previous = match request with Some mac -> with_length mac | None -> "" in
  let last, _, signed = List.fold_left sign (previous, true, []) messages in
  (String.sub last 2 (max 0 (String.length last - 2)), List.rev signed)

(* The answers to a request with the signature [previous], of which not every one needs a signature of its own: RFC 8945, 5.3.1. *)
type series = {
  by : key;
  mutable previous : string;  (** the last signature behind its length, and the messages since that have none *)
  mutable unsigned : int;  (** how many these are *)
  mutable begun : bool;
}

let max_unsigned = 99
let series by request = { by; previous = with_length request; unsigned = 0; begun = false }

(* Whether the next message is by the key, [tsig] its signature, with its key's name, and the byte where its record begins. *)
let continues series ~now message tsig =
  match tsig with
  | None when series.begun && series.unsigned < max_unsigned ->
      series.previous <- series.previous ^ message;
      series.unsigned <- series.unsigned + 1;
      true
  | None -> false
  | Some (name, tsig, at) ->
      let text = Bytes.of_string (String.sub message 0 at) in
      Bytes.set_uint16_be text 10 (Bytes.get_uint16_be text 10 - 1);
      let own = if series.begun then timers tsig else Tsig.encode_raw series.by.name tsig in
      let expected = mac series.by (series.previous ^ Bytes.to_string text ^ own) in
      let is_genuine =
        Domain_name.equal series.by.name name
        && series.by.algorithm = tsig.Tsig.algorithm
        && Eqaf.equal expected tsig.mac && Tsig.valid_time now tsig
      in
      series.previous <- with_length tsig.mac;
      series.unsigned <- 0;
      series.begun <- true;
      is_genuine

(* How much a signature adds at most: names are not compressed in it. *)
let size_of_signature key = String.length (Domain_name.to_string key.name) + 128

(* The key of [secondaries] that the message is signed with, and its signature; or the answer to one that is not. *)
let verified secondaries ~now ?mac packet (name, tsig, offset) message =
  let fits key = Domain_name.equal key.name name && key.algorithm = tsig.Tsig.algorithm in
  let key = List.find_opt fits (List.filter_map (fun { key; _ } -> key) secondaries) in
  match (key, Dns_tsig.verify ?mac now packet name ?key:(Option.map dnskey key) tsig (String.sub message 0 offset)) with
  | Some key, Ok (_, mac, _) -> Ok (key, mac)
  | _, Error (_, answer) -> Error answer
  | None, Ok _ -> Error None

(* The records of a message as another server sends it: RFC 1035, 4.1, and RFC 3597. The library reads no message without a
   question, which is what most servers send of a transfer after its first. SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns

exception Malformed

type record = { owner : string; kind : int; fixed : string  (** type, class and TTL *); data : string }

type t = {
  message : string;
  answers : record list;
  tsig : ([ `raw ] Domain_name.t * Tsig.t * int) option;  (** with its key's name, and where its record begins *)
}

let soa = 6
let opt = 41
let tsig = 250
let max_name = 255

(* The name at [at], without pointers, and what follows it. A pointer leads to what is before the name it is in. *)
let name message at =
  let rec labels at ~before found size =
    match String.get_uint8 message at with
    | 0 -> (String.concat "" (List.rev ("\000" :: found)), at + 1)
    | length when length < 0x40 ->
        if size + length + 1 >= max_name then raise Malformed;
        labels (at + 1 + length) ~before (String.sub message at (1 + length) :: found) (size + 1 + length)
    | length when length >= 0xc0 ->
        let target = String.get_uint16_be message at land 0x3fff in
        if target >= before then raise Malformed;
        (fst (labels target ~before:target found size), at + 2)
    | _ -> raise Malformed
  in
  labels at ~before:at [] 0

(* Of types whose data may have pointers: bytes before the names, and how many names. *)
let names = function
  | 2 | 5 | 12 | 39 -> (0, 1)
  | 6 | 17 -> (0, 2)
  | 15 | 18 | 21 | 36 -> (2, 1)
  | 26 -> (2, 2)
  | 33 -> (6, 1)
  | _ -> (0, 0)

let data message kind at length =
  let before, count = names kind in
  let rec expanded at left found =
    if left = 0 then (String.concat "" (List.rev found), at)
    else
      let name, next = name message at in
      expanded next (left - 1) (name :: found)
  in
  let names, rest = expanded (at + before) count [] in
  if rest > at + length then raise Malformed;
  String.sub message at before ^ names ^ String.sub message rest (at + length - rest)

let record message at =
  let owner, at = name message at in
  let kind = String.get_uint16_be message at and length = String.get_uint16_be message (at + 8) in
  ({ owner; kind; fixed = String.sub message at 8; data = data message kind (at + 10) length }, at + 10 + length)

let with_length text =
  let length = Bytes.create 2 in
  Bytes.set_uint16_be length 0 (String.length text);
  Bytes.to_string length ^ text

(* A message with this record alone, as an answer or as what follows the answers, which the library reads. *)
let alone ~counts { owner; fixed; data; _ } =
  "\000\000\x84\000\000\001" ^ counts ^ "\000\000\001\000\001" ^ owner ^ fixed ^ with_length data

let one_answer = "\000\001\000\000\000\000"
let one_additional = "\000\000\000\000\000\001"

let of_string message =
  let count at = String.get_uint16_be message at in
  let rec skipped at left = if left = 0 then at else skipped (snd (name message at) + 4) (left - 1) in
  let rec records at left found =
    if left = 0 then (List.rev found, at)
    else
      let record, next = record message at in
      records next (left - 1) (record :: found)
  in
  let rec signature at left =
    if left = 0 then None
    else
      let record, next = record message at in
      if record.kind <> tsig then signature next (left - 1)
      else if left > 1 then raise Malformed
      else
        match Packet.decode (alone ~counts:one_additional record) with
        | Ok { tsig = Some (name, tsig, _); _ } -> Some (name, tsig, at)
        | _ -> raise Malformed
  in
  match
    let answers, at = records (skipped 12 (count 4)) (count 6) [] in
    { message; answers; tsig = signature at (count 8 + count 10) }
  with
  | read -> Some read
  | exception (Malformed | Invalid_argument _) -> None

let owner { owner; _ } =
  let rec labels at = match String.get_uint8 owner at with 0 -> [] | n -> String.sub owner (at + 1) n :: labels (at + 1 + n) in
  Domain_name.of_strings (labels 0)

(* As the library has it; an error says what can't be read. *)
let to_map ({ kind; _ } as record) =
  let pp ppf () =
    match owner record with
    | Ok name -> Fmt.pf ppf "%a, type %d," Domain_name.pp name kind
    | Error _ -> Fmt.pf ppf "a record of type %d" kind
  in
  if kind = opt || (kind >= tsig && kind <= 255) then Error (Fmt.str "%a is no record of a zone" pp ())
  else
    match Packet.decode (alone ~counts:one_answer record) with
    | Ok { data = `Answer (answer, _); _ } -> Ok answer
    | Ok _ | Error _ -> Error (Fmt.str "%a can't be read" pp ())
    | exception Invalid_argument _ -> Error (Fmt.str "%a can't be read" pp ())

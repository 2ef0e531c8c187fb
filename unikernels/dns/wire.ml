(* The records of a message as another server sends it: RFC 1035, 4.1, and RFC 3597. The library reads no message without a
   question, which is what most servers send of a transfer after its first. SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns

exception Malformed

type record = { owner : string; kind : int; fixed : string  (** type, class and TTL *); data : string }

type t = {
  message : string;
  answers : record list;
  authority : record list;
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
    let authority, at = records at (count 8) [] in
    { message; answers; authority; tsig = signature at (count 10) }
  with
  | read -> Some read
  | exception (Malformed | Invalid_argument _) -> None

let owner { owner; _ } =
  let rec labels at = match String.get_uint8 owner at with 0 -> [] | n -> String.sub owner (at + 1) n :: labels (at + 1 + n) in
  Domain_name.of_strings (labels 0)

let of_name name =
  let label text = Fmt.str "%c%s" (Char.chr (String.length text)) text in
  String.concat "" (List.map label (Domain_name.to_strings name)) ^ "\000"

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

(* An answer of [code] to [question], a whole message, with these records. [payload]: the bytes that whoever asked takes over UDP;
   None where there was no OPT record. *)
let answer question ~at ~code ~authoritative ~recursion ~dnssec ~payload ~sections:(answers, authority, additional) =
  let asked = String.sub question 12 (at - 12) in
  let owner_asked = String.sub asked 0 (String.length asked - 4) in
  let record { owner; fixed; data; _ } = (if owner = owner_asked then "\xc0\x0c" else owner) ^ fixed ^ with_length data in
  let flags = if dnssec then '\x80' else '\000' in
  let opt = if payload = None then "" else Fmt.str "\000\000\x29\x04\xd0\000\000%c\000\000\000" flags in
  let sections = List.map (fun records -> String.concat "" (List.map record records)) [ answers; authority; additional ] in
  let head = Bytes.make 12 '\000' in
  let flag set bit = if set then bit else 0 in
  Bytes.blit_string question 0 head 0 2;
  Bytes.set_uint8 head 2 (0x80 lor flag authoritative 0x04 lor (String.get_uint8 question 2 land 0x01));
  Bytes.set_uint8 head 3 (flag recursion 0x80 lor (String.get_uint8 question 3 land 0x10) lor code);
  let count at records = Bytes.set_uint16_be head at (List.length records) in
  Bytes.set_uint16_be head 4 1;
  count 6 answers;
  count 8 authority;
  Bytes.set_uint16_be head 10 (List.length additional + if payload = None then 0 else 1);
  Bytes.to_string head ^ asked ^ String.concat "" sections ^ opt

(* The records of a set. In an answer the library writes only those that the question leads to. *)
let of_map map =
  let question = Packet.Question.create Domain_name.root Rr_map.A in
  let packet = Packet.create (0, Packet.Flags.empty) question (`Answer (Name_rr_map.empty, map)) in
  match of_string (fst (Packet.encode `Tcp packet)) with Some { authority; _ } -> authority | None -> []

(* The library's parser reads no types that sign a zone as RFC 3597 has them (NAME TTL IN TYPE46 \# LENGTH HEX), most of them not
   by name either, and of a DNSKEY the text for its key. *)
let signing = [ ("TYPE43", 43); ("TYPE46", 46); ("TYPE47", 47); ("TYPE48", 48); ("TYPE50", 50) ]

let of_line line =
  match String.split_on_char ' ' line with
  | [ owner; ttl; "IN"; kind; "\\#"; _; hex ] when List.mem_assoc kind signing -> (
      let kind = List.assoc kind signing in
      let fixed = Bytes.make 8 '\001' in
      Bytes.set_uint16_be fixed 0 kind;
      Bytes.set_uint16_be fixed 2 1;
      let read () =
        Bytes.set_int32_be fixed 4 (Int32.of_string ttl);
        let data = Cstruct.to_string (Cstruct.of_hex hex) in
        to_map { owner = of_name (Domain_name.of_string_exn owner); kind; fixed = Bytes.to_string fixed; data }
      in
      match read () with
      | Ok records -> Some records
      | Error reason -> Fmt.failwith "--zone-block: %s" reason
      | exception (Invalid_argument _ | Failure _) -> Fmt.failwith "--zone-block: a record of type %d can't be read" kind)
  | _ -> None

(* Those of a text of zones, and the text without them, of which each line keeps its number. *)
let of_text text =
  let signatures = ref [] in
  let line text =
    match of_line text with
    | None -> text
    | Some records ->
        signatures := records :: !signatures;
        ""
  in
  let rest = String.concat "\n" (List.rev (List.rev_map line (String.split_on_char '\n' text))) in
  (!signatures, rest)

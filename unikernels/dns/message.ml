(* What a DNS message says of itself, and what a client expects to be said of it: RFC 1035, 4.1.1, and RFC 6891.
   SPDX-License-Identifier: GPL-3.0-or-later *)

let header = 12
let id message = Cstruct.BE.get_uint16 message 0
let bit message at mask = Cstruct.get_uint8 message at land mask <> 0
let set message at mask = Cstruct.set_uint8 message at (Cstruct.get_uint8 message at lor mask)
let is_answer message = bit message 2 0x80
let wants_recursion message = bit message 2 0x01
let is_cut_short message = bit message 2 0x02
let is_authoritative message = bit message 2 0x04
let opcode message = (Cstruct.get_uint8 message 2 lsr 3) land 0x0f
let code message = Cstruct.get_uint8 message 3 land 0x0f
let no_error = 0
let server_failure = 2
let not_implemented = 4
let no_such_name = 3
let not_authoritative = 9
let refused = 5

(* Where the one question ends, its type and its class; None of what is no question. Names in questions are not compressed. *)
let question message =
  let length = Cstruct.length message in
  let rec name at =
    if at >= length then None
    else match Cstruct.get_uint8 message at with 0 -> Some (at + 1) | size when size < 64 -> name (at + 1 + size) | _ -> None
  in
  if length < header || Cstruct.BE.get_uint16 message 4 <> 1 then None
  else
    match name header with
    | Some at when at + 4 <= length -> Some (at + 4, Cstruct.BE.get_uint16 message at, Cstruct.BE.get_uint16 message (at + 2))
    | _ -> None

(* Where the OPT record is among the records, behind its name; names are as RFC 1035, 4.1.4, has them. *)
let edns_at message =
  let length = Cstruct.length message in
  let rec after_name at =
    if at >= length then None
    else
      match Cstruct.get_uint8 message at with
      | 0 -> Some (at + 1)
      | size when size >= 0xc0 -> Some (at + 2)
      | size when size < 64 -> after_name (at + 1 + size)
      | _ -> None
  in
  let rec among left at =
    if left = 0 then None
    else
      match after_name at with
      | Some at when at + 10 <= length ->
          if Cstruct.BE.get_uint16 message at = 41 then Some at
          else among (left - 1) (at + 10 + Cstruct.BE.get_uint16 message (at + 8))
      | _ -> None
  in
  match question message with
  | Some (at, _, _) -> among (List.fold_left (fun sum at -> sum + Cstruct.BE.get_uint16 message at) 0 [ 6; 8; 10 ]) at
  | None -> None

let has_edns message = edns_at message <> None

(* RFC 6891, 6.1.3: of another version than 0, which is answered with the extended code 16. *)
let has_other_version message = match edns_at message with Some at -> Cstruct.get_uint8 message (at + 5) <> 0 | None -> false

(* No answer that has to be cut into frames (DNS flag day 2020). *)
let payload = 1_232
let edns = Cstruct.of_hex "00 0029 04d0 00000000 0000"
let edns_other_version = Cstruct.of_hex "00 0029 04d0 01000000 0000"

(* The answer with [code] and without records to a question that has one. *)
let without_records message end_of_question code =
  let answer = Cstruct.append (Cstruct.sub message 0 end_of_question) Cstruct.empty in
  Cstruct.set_uint8 answer 2 (0x80 lor (Cstruct.get_uint8 message 2 land 0x79));
  Cstruct.set_uint8 answer 3 code;
  List.iter (fun at -> Cstruct.BE.set_uint16 answer at 0) [ 6; 8; 10 ];
  answer

let other_version message end_of_question =
  let answer = Cstruct.append (without_records message end_of_question no_error) edns_other_version in
  Cstruct.BE.set_uint16 answer 10 1;
  answer

(* One that sends its client to TCP, where nobody can be made to ask in another's name. *)
let cut_short answer =
  match question answer with
  | Some (at, _, _) ->
      let short = without_records answer at (code answer) in
      set short 2 0x02;
      short
  | None -> answer

(* Of what the library leaves out of an answer, or repeats of the question: whether recursion was wanted and is to be had, that the
   answer is from our own zones, that nothing was validated, and that its client's OPT record was understood. *)
let completed answer ~recursion ~authoritative ~wanted ~edns:asked =
  if Cstruct.length answer < header then answer
  else begin
    let adds = asked && not (has_edns answer) in
    let answer = Cstruct.append answer (if adds then edns else Cstruct.empty) in
    if adds then Cstruct.BE.set_uint16 answer 10 (Cstruct.BE.get_uint16 answer 10 + 1);
    Option.iter (fun at -> Cstruct.BE.set_uint16 answer (at + 2) payload) (edns_at answer);
    let code = if (not recursion) && code answer = not_authoritative then refused else code answer in
    Cstruct.set_uint8 answer 3 ((Cstruct.get_uint8 answer 3 land 0x50) lor code);
    if wanted then set answer 2 0x01;
    if authoritative then set answer 2 0x04;
    if recursion then set answer 3 0x80;
    answer
  end

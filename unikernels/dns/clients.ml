(* One port, two services: who is a client, and what all others get. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

let port = 53

module K = struct
  open Cmdliner

  let questions =
    let doc = "Questions a second over UDP, a quarter of them from one address; more are ignored." in
    Mirage_runtime.register_arg Arg.(value & opt int 4_000 (info ~doc ~docv:"COUNT" [ "questions-per-second" ]))

  let answers =
    let doc = "Answers a second over UDP to one address that is no client's; for more it has to ask over TCP." in
    Mirage_runtime.register_arg Arg.(value & opt int 20 (info ~doc ~docv:"COUNT" [ "answers-per-second" ]))
end

(* Whom one cannot ask in another's name is cut short rather than ignored: one in two, so that a victim gets half of it. *)
let slip = 2

(* [Stack] with port 53 for those of [networks] alone: who listens there never hears of anybody else. All others are
   answered from [zones], and refused what is not in them: a resolver for everybody is a weapon for anybody (RFC 5358). *)
module Make (Stack : Tcpip.Stack.V4V6) (Known : sig
  val networks : unit -> Ipaddr.Prefix.t list
  val zones : unit -> Dns_server.Primary.s
  val answers : unit -> Answers.t

  (* Ask the resolver, as somebody at this address and port. *)
  val resolve : Ipaddr.t * int -> string -> [ `Close | `Data of int32 * string ] Lwt.t

  val secondaries : Secondaries.t list
  val primaries : Primaries.zone list
end) =
struct
  module Over = Dns_mirage.Make (Stack)

  let is_client address = List.exists (Ipaddr.Prefix.mem address) (Known.networks ())

  (* An address as its owner is counted: /64 of IPv6, and of IPv4 the address. *)
  let owner address = match address with Ipaddr.V4 _ -> Ipaddr.to_octets address | V6 _ -> String.sub (Ipaddr.to_octets address) 0 8

  let data () = Dns_server.Primary.data (Known.zones ())

  (* Nobody may change the zones, so what else comes of a question is nothing. *)
  let of_zones proto address port question =
    let now = Mirage_ptime.now () and elapsed = Mirage_mtime.elapsed_ns () in
    let question = Cstruct.to_string question in
    let _, answers, _, _, _ = Dns_server.Primary.handle_buf (Known.zones ()) now elapsed proto address port question in
    List.map Cstruct.of_string answers

  let name question =
    match Dns.Packet.decode (Cstruct.to_string question) with Ok { question = name, _; _ } -> Some name | Error _ -> None

  let is_ours question =
    match name question with Some name -> Result.is_ok (Dns_trie.zone name (data ())) | None -> false

  (* What nobody is told: every record of a name at once (RFC 8482), and what this server is (class CHAOS). What nobody may do:
     changes (RFC 2136). And what is not known: a zone that no primary gave yet, or not for too long. *)
  let refusal question =
    let with_code at code = Some [ Message.without_records question at code ] in
    match Message.question question with
    | Some (at, kind, cls) when kind = 255 || cls <> 1 -> with_code at Message.refused
    | Some (at, _, _) when Message.opcode question <> 0 ->
        with_code at (if Message.opcode question = 5 then Message.refused else Message.not_implemented)
    | Some (at, _, _) when Message.has_other_version question -> Some [ Message.other_version question at ]
    | Some (at, _, _) when Known.primaries <> [] -> (
        match name question with
        | Some name when Primaries.lacks Known.primaries (data ()) name -> with_code at Message.server_failure
        | _ -> None)
    | _ -> None

  (* An answer of ours, not larger than whoever asks takes. *)
  let of_ours proto question ~at ~recursion ~dnssec ~payload code { Answers.answer; authority; additional } kind =
    let sections = (answer, Wire.of_map authority, Wire.of_map additional) and authoritative = kind = `Authoritative in
    let message = Wire.answer (Cstruct.to_string question) ~at ~code ~authoritative ~recursion ~dnssec ~payload ~sections in
    let limit =
      match (proto, payload) with
      | `Tcp, _ -> 65_535
      | `Udp, None -> 512
      | `Udp, Some size -> max 512 (min size Message.payload)
    in
    let answer = Cstruct.of_string message in
    let complete = Message.completed ~recursion ~authoritative ~wanted:false ~edns:(payload <> None) in
    if String.length message <= limit then answer else complete (Message.cut_short answer)

  let max_aliases = 100
  let aliases = ref 0
  let asked = ref 0

  (* Each question from a port of its own, for the resolver tells by it whose an answer is. *)
  let ask question =
    incr asked;
    let late = Mirage_sleep.ns (Duration.of_sec 6) >|= fun () -> `Close in
    Lwt.pick [ Known.resolve (Ipaddr.(V4 V4.any), 1 + (!asked mod 65_535)) question; late ]

  (* What the resolver knows of an alias' target; an error is the answer's. *)
  let resolved target kind =
    let flags = Dns.Packet.(Flags.singleton `Recursion_desired) in
    let question, _ = Dns.Packet.encode `Tcp (Dns.Packet.create (!asked land 0xffff, flags) (target, `K kind) `Query) in
    ask question >|= function
    | `Close -> (Message.server_failure, [])
    | `Data (_, text) -> (
        match (Wire.of_string text, Message.code (Cstruct.of_string text)) with
        | Some { answers; _ }, ((0 | 3) as code) -> (code, answers)
        | _ -> (Message.server_failure, []))

  (* An alias of ours, or from a signed zone. A client gets what an alias leads to, others only the alias. *)
  let of_our_zones proto address question =
    let recursion = is_client address in
    match (Message.question question, Dns.Packet.decode (Cstruct.to_string question)) with
    | Some (at, _, _), Ok { data = `Query; question = name, `K kind; edns; tsig = None; _ } -> (
        let dnssec = match edns with Some { dnssec_ok; _ } -> dnssec_ok | None -> false in
        let payload = Option.map (fun { Dns.Edns.payload_size; _ } -> payload_size) edns in
        let send = of_ours proto question ~at ~recursion ~dnssec ~payload in
        let t = Known.answers () in
        match if Answers.is_needed t ~dnssec (name, kind) then Some (Answers.reply t ~dnssec (name, kind)) else None with
        | None -> None
        | Some (Known (_, _, `Referral)) when recursion -> None
        | Some (Known (code, sections, kind)) -> Some (Lwt.return [ send code sections kind ])
        | Some (Leads_to (sections, _)) when not recursion -> Some (Lwt.return [ send Message.no_error sections `Authoritative ])
        | Some (Leads_to (sections, target)) when !aliases < max_aliases ->
            incr aliases;
            let resolve () = resolved target kind in
            let answer (code, records) =
              let answer = if code = Message.server_failure then [] else sections.answer @ records in
              [ send code { sections with answer } `Authoritative ]
            in
            Some
              (Lwt.finalize
                 (fun () -> resolve () >|= answer)
                 (fun () ->
                   decr aliases;
                   Lwt.return_unit))
        | Some (Leads_to _) -> Some (Lwt.return [ send Message.server_failure Answers.empty `Authoritative ]))
    | _ -> None

  (* What has an answer of its own, whoever asks. *)
  let special proto address port question =
    let texts = Option.map (fun texts -> Lwt.return (List.map Cstruct.of_string texts)) in
    match Transfer.handle Known.secondaries (Known.zones ()) proto address port question with
    | Some answers -> Some (Lwt.return answers)
    | None -> (
        match texts (Primaries.notified Known.primaries address question) with
        | Some answers -> Some answers
        | None -> (
            let edns = Message.has_edns question and wanted = Message.wants_recursion question in
            let complete answer = Message.completed answer ~recursion:(is_client address) ~authoritative:false ~wanted ~edns in
            match refusal question with
            | Some answers -> Some (Lwt.return (List.map complete answers))
            | None -> of_our_zones proto address question))

  let answers proto address port question =
    let edns = Message.has_edns question and wanted = Message.wants_recursion question in
    let complete answer = Message.completed answer ~recursion:false ~authoritative:false ~wanted ~edns in
    match special proto address port question with
    | Some answers -> answers
    | None -> Lwt.return (List.map complete (of_zones proto address port question))

  (* Over TLS, where the library does not listen. *)
  let over_tls (address, port) question =
    if not (is_client address) then answers `Tcp address port question
    else
      match (special `Tcp address port question, Message.question question) with
      | Some answers, _ -> answers
      | None, None -> Lwt.return []
      | None, Some (at, _, _) -> (
          let edns = Message.has_edns question and wanted = Message.wants_recursion question in
          let complete = Message.completed ~recursion:true ~authoritative:(is_ours question) ~wanted ~edns in
          ask (Cstruct.to_string question) >|= function
          | `Data (_, answer) -> [ complete (Cstruct.of_string answer) ]
          | `Close -> [ complete (Message.without_records question at Message.server_failure) ])

  include (
    Stack :
      Tcpip.Stack.V4V6 with type t = Stack.t and module IP = Stack.IP and module UDP := Stack.UDP and module TCP := Stack.TCP)

  module UDP = struct
    include Stack.UDP

    let asking = Bounded.Rate.create ()
    let answering = Bounded.Rate.create ()

    type asked = { wanted : bool; edns : bool; authoritative : bool; since : int }

    (* The questions of clients that are being resolved: by address, port and id. *)
    let under_way : (Ipaddr.t * int * int, asked) Hashtbl.t = Hashtbl.create 97
    let most_under_way = 1_000

    (* A resolver that gives up does so within seconds, and says so or not. *)
    let forget_old () =
      let now = Bounded.seconds () in
      let fresh _ asked = if now - asked.since > 15 then None else Some asked in
      if Hashtbl.length under_way >= most_under_way then Hashtbl.filter_map_inplace fresh under_way

    let resolve callback ~src ~dst ~src_port question =
      forget_old ();
      if Hashtbl.length under_way >= most_under_way then Lwt.return_unit
      else begin
        let asked =
          {
            wanted = Message.wants_recursion question;
            edns = Message.has_edns question;
            authoritative = is_ours question;
            since = Bounded.seconds ();
          }
        in
        Hashtbl.replace under_way (src, src_port, Message.id question) asked;
        callback ~src ~dst ~src_port question
      end

    let write ?src ?src_port ?ttl ~dst ~dst_port udp answer =
      let to_client () =
        if Cstruct.length answer < Message.header then answer
        else
          let key = (dst, dst_port, Message.id answer) in
          match Hashtbl.find_opt under_way key with
          | Some { wanted; edns; authoritative; _ } ->
              Hashtbl.remove under_way key;
              Message.completed answer ~recursion:true ~authoritative ~wanted ~edns
          | None -> answer
      in
      let answer = if src_port = Some port then to_client () else answer in
      Stack.UDP.write ?src ?src_port ?ttl ~dst ~dst_port udp answer

    let count = ref 0

    let answer_others udp ~src ~src_port question =
      let send answer = Stack.UDP.write ~src_port:port ~dst:src ~dst_port:src_port udp answer >|= ignore in
      let key = (src, src_port, Message.id question) in
      if Bounded.Rate.allows answering ~most:(K.questions ()) ~each:(K.answers ()) ~owner:(owner src) ~key then
        answers `Udp src src_port question >>= Lwt_list.iter_s send
      else begin
        incr count;
        if !count mod slip <> 0 then Lwt.return_unit
        else answers `Udp src src_port question >>= fun answers -> Lwt_list.iter_s send (List.map Message.cut_short answers)
      end

    let listen udp ~port:listened callback =
      Stack.UDP.listen udp ~port:listened (fun ~src ~dst ~src_port question ->
          let may_ask () =
            let most = max 4 (K.questions ()) in
            Bounded.Rate.allows asking ~most ~each:(most / 4) ~owner:(owner src) ~key:(src, src_port)
          in
          if listened <> port then callback ~src ~dst ~src_port question
          (* An answer is no question, but may be one to a NOTIFY of ours. Two servers that answer each other's answers, or one
             that is given its own address as the asker's, never stop (CVE-2024-2169). *)
          else if Cstruct.length question < Message.header then Lwt.return_unit
          else if Message.is_answer question then Lwt.return (Notify.answered src question)
          else if not (may_ask ()) then Lwt.return_unit
          else if not (is_client src) then answer_others udp ~src ~src_port question
          else
            let send answer = Stack.UDP.write ~src_port:port ~dst:src ~dst_port:src_port udp answer >|= ignore in
            match special `Udp src src_port question with
            | Some answers -> answers >>= Lwt_list.iter_s send
            | None -> resolve callback ~src ~dst ~src_port question)
  end

  module TCP = struct
    include Stack.TCP

    (* What clients asked over TCP: by address, port and id. *)
    let under_way : (Ipaddr.t * int * int, bool * bool) Hashtbl.t = Hashtbl.create 7

    (* Behind its length. *)
    let write flow data =
      if snd (Stack.TCP.src flow) <> port || Cstruct.length data < 2 + Message.header || not (is_client (fst (Stack.TCP.dst flow)))
      then Stack.TCP.write flow data
      else
        let length, answer = Cstruct.split data 2 in
        let address, port = Stack.TCP.dst flow and authoritative = is_ours answer in
        let key = (address, port, Message.id answer) in
        let wanted, edns = Option.value (Hashtbl.find_opt under_way key) ~default:(true, false) in
        Hashtbl.remove under_way key;
        let answer = Message.completed answer ~recursion:true ~authoritative ~wanted ~edns in
        Stack.TCP.write flow (Cstruct.append length answer)

    (* What clients send, as messages: what has an answer of its own gets it before the library reads it. *)
    let from_clients : (Ipaddr.t * int, Over.f) Hashtbl.t = Hashtbl.create 7

    let rec read flow =
      let ((address, from) as client) = Stack.TCP.dst flow in
      match if snd (Stack.TCP.src flow) = port then Hashtbl.find_opt from_clients client else None with
      | None -> Stack.TCP.read flow
      | Some questions -> (
          Over.read_tcp questions >>= function
          | Error () -> Lwt.return_ok `Eof
          | Ok question -> (
              match if Cstruct.length question < Message.header then None else special `Tcp address from question with
              | None ->
                  if Cstruct.length question >= Message.header then begin
                    let asked = (Message.wants_recursion question, Message.has_edns question) in
                    Hashtbl.replace under_way (address, from, Message.id question) asked
                  end;
                  let length = Cstruct.create 2 in
                  Cstruct.BE.set_uint16 length 0 (Cstruct.length question);
                  Lwt.return_ok (`Data (Cstruct.append length question))
              | Some answers -> (
                  answers >>= Over.send_tcp_multiple flow >>= function
                  | Error () -> Lwt.return_ok `Eof
                  | Ok () -> read flow)))

    let resolve callback flow =
      let client = Stack.TCP.dst flow and questions = Over.of_flow flow in
      let forget () =
        match Hashtbl.find_opt from_clients client with
        | Some latest when latest == questions ->
            let others (address, port, _) asked = if (address, port) = client then None else Some asked in
            Hashtbl.filter_map_inplace others under_way;
            Lwt.return (Hashtbl.remove from_clients client)
        | _ -> Lwt.return_unit
      in
      Hashtbl.replace from_clients client questions;
      Lwt.finalize (fun () -> callback flow) forget

    let rec serve flow questions =
      let address, port = Stack.TCP.dst flow in
      Over.read_tcp questions >>= function
      | Error () -> Stack.TCP.close flow
      | Ok question when Cstruct.length question < Message.header || Message.is_answer question -> Stack.TCP.close flow
      | Ok question -> (
          answers `Tcp address port question >>= Over.send_tcp_multiple flow >>= function
          | Error () -> Stack.TCP.close flow
          | Ok () -> serve flow questions)

    let listen tcp ~port:listened ?keepalive callback =
      Stack.TCP.listen tcp ~port:listened ?keepalive (fun flow ->
          if listened <> port then callback flow
          else if is_client (fst (Stack.TCP.dst flow)) then resolve callback flow
          else serve flow (Over.of_flow flow))
  end
end

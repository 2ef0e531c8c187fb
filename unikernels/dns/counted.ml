(* What is asked and answered on port 53, counted. SPDX-License-Identifier: GPL-3.0-or-later *)

let questions = Counters.counter "dns_questions_total" "Messages of clients and others to port 53, or connections."
let answers = Counters.counter "dns_answers_total" "Messages from port 53, by their code (RFC 1035, 4.1.1)."

module Make (Stack : Tcpip.Stack.V4V6) = struct
  include (
    Stack :
      Tcpip.Stack.V4V6 with type t = Stack.t and module IP = Stack.IP and module UDP := Stack.UDP and module TCP := Stack.TCP)

  let port = 53

  let answered transport message =
    if Cstruct.length message >= Message.header then
      answers (Fmt.str "transport=\"%s\",code=\"%d\"" transport (Message.code message))

  module UDP = struct
    include Stack.UDP

    let listen udp ~port:listened callback =
      Stack.UDP.listen udp ~port:listened (fun ~src ~dst ~src_port message ->
          if listened = port then questions {|transport="udp"|};
          callback ~src ~dst ~src_port message)

    let write ?src ?src_port ?ttl ~dst ~dst_port udp message =
      if src_port = Some port then answered "udp" message;
      Stack.UDP.write ?src ?src_port ?ttl ~dst ~dst_port udp message
  end

  module TCP = struct
    include Stack.TCP

    let listen tcp ~port:listened ?keepalive callback =
      Stack.TCP.listen tcp ~port:listened ?keepalive (fun flow ->
          if listened = port then questions {|transport="tcp"|};
          callback flow)

    (* Behind its length. *)
    let write flow data =
      if snd (Stack.TCP.src flow) = port && Cstruct.length data > 2 then answered "tcp" (Cstruct.shift data 2);
      Stack.TCP.write flow data
  end
end

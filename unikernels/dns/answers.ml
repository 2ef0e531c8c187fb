(* What the library's answers from our zones lack: what an alias leads to (RFC 1034, 4.3.2), and of signed zones the signatures
   and proofs that validating clients ask for (RFC 4035, 3.1, and RFC 5155, 7.2). SPDX-License-Identifier: GPL-3.0-or-later *)
open Dns
module By_hash = Map.Make (String)

(* In the canonical order: RFC 4034, 6.1. *)
module Ordered = Map.Make (struct
  type t = string list

  let compare = List.compare String.compare
end)

let key name = List.rev (Domain_name.to_strings (Domain_name.canonical name))

type hashed = { by_hash : ([ `raw ] Domain_name.t * (int32 * Nsec3.t)) By_hash.t; parameters : Nsec3.t }

(* Of the signed zones; the library's tree has it too, but not at delegations, and not in order. *)
type t = {
  trie : Dns_trie.t;
  signatures : (int32 * Rr_map.Rrsig_set.t) Domain_name.Map.t;
  signers : (int32 * Rr_map.Ds_set.t) Domain_name.Map.t;
  names : Domain_name.Set.t;  (** that exist, also those that are only above others *)
  chain : ([ `raw ] Domain_name.t * (int32 * Nsec.t)) Ordered.t;
  hashed : hashed Domain_name.Map.t;  (** by zone *)
}

let max_aliases = 8

(* RFC 9276, 3.1. *)
let max_iterations = 150
let above name = Domain_name.drop_label_exn name

let of_trie trie =
  let fold kind = Dns_trie.fold kind trie in
  let signatures = fold Rr_map.Rrsig Domain_name.Map.add Domain_name.Map.empty in
  let hashed =
    fold Rr_map.Nsec3
      (fun name ((_, nsec3) as value) hashed ->
        let zone = above name and hash = String.uppercase_ascii (Domain_name.get_label_exn name 0) in
        let by_hash = match Domain_name.Map.find zone hashed with Some { by_hash; _ } -> by_hash | None -> By_hash.empty in
        Domain_name.Map.add zone { by_hash = By_hash.add hash (name, value) by_hash; parameters = nsec3 } hashed)
      Domain_name.Map.empty
  in
  let rec add name names =
    if Domain_name.Set.mem name names then names
    else
      let names = Domain_name.Set.add name names in
      if Domain_name.count_labels name = 0 then names else add (above name) names
  in
  let is_hash name =
    Domain_name.count_labels name > 0
    &&
    match Domain_name.Map.find (above name) hashed with
    | Some { by_hash; _ } -> By_hash.mem (String.uppercase_ascii (Domain_name.get_label_exn name 0)) by_hash
    | None -> false
  in
  let add_signed name _ names = if is_hash name then names else add name names in
  let names = Domain_name.Map.fold add_signed signatures Domain_name.Set.empty in
  let names = if Domain_name.Map.is_empty signatures then names else fold Rr_map.Ns (fun name _ names -> add name names) names in
  let chain = fold Rr_map.Nsec (fun name value chain -> Ordered.add (key name) (name, value) chain) Ordered.empty in
  { trie; signatures; signers = fold Rr_map.Ds Domain_name.Map.add Domain_name.Map.empty; names; chain; hashed }

let is_signed t zone = Domain_name.Map.mem zone t.signatures

(* A set with its signatures; [source]: whose they are, if not the owner's. *)
let set t ?source owner kind value =
  let of_kind { Rrsig.type_covered; _ } = type_covered = Rr_map.to_int kind in
  let map = Name_rr_map.singleton owner kind value in
  match Domain_name.Map.find (Option.value source ~default:owner) t.signatures with
  | None -> map
  | Some (_, signatures) ->
      let those = Rr_map.Rrsig_set.filter of_kind signatures in
      if Rr_map.Rrsig_set.is_empty those then map else Name_rr_map.add owner Rr_map.Rrsig (Rr_map.ttl kind value, those) map

let rec closest_encloser t name =
  if Domain_name.Set.mem name t.names || Domain_name.count_labels name = 0 then name else closest_encloser t (above name)

let wildcard encloser = Domain_name.prepend_label_exn encloser "*"

(* Where a name's records are. *)
let source t name = if Domain_name.Set.mem name t.names then name else wildcard (closest_encloser t name)

let rec next_closer name encloser =
  if Domain_name.count_labels name <= Domain_name.count_labels encloser + 1 then name else next_closer (above name) encloser

let hash { Nsec3.salt; iterations; _ } name = Base32.encode (Dnssec.nsec3_hash salt iterations name)

(* The record that proves that a name exists, and with which types, or that it does not. *)
let proof t zone name =
  match Domain_name.Map.find zone t.hashed with
  | Some { parameters; _ } when parameters.iterations > max_iterations -> Name_rr_map.empty
  | Some { by_hash; parameters } ->
      let hash = hash parameters name in
      let owner, value =
        match By_hash.find_last_opt (fun other -> other <= hash) by_hash with
        | Some (_, found) -> found
        | None -> snd (By_hash.max_binding by_hash)
      in
      set t owner Rr_map.Nsec3 value
  | None -> (
      let key = key name in
      match Ordered.find_last_opt (fun other -> List.compare String.compare other key <= 0) t.chain with
      | Some (_, (owner, value)) when Domain_name.is_subdomain ~subdomain:owner ~domain:zone -> set t owner Rr_map.Nsec value
      | _ -> Name_rr_map.empty)

let proofs t zone names = List.fold_left (fun map name -> Name_rr_map.union map (proof t zone name)) Name_rr_map.empty names
let has_hashes t zone = Domain_name.Map.mem zone t.hashed

(* That there is no such name, and that no wildcard has the type. *)
let absent t zone name =
  let encloser = closest_encloser t name in
  let closest = if has_hashes t zone then [ encloser; next_closer name encloser ] else [ name ] in
  proofs t zone (wildcard encloser :: closest)

(* That a name lacks a type. A delegation that is not signed may have no hash: what is above it then proves that. *)
let lacks_type t zone name =
  if not (Domain_name.Set.mem name t.names) then absent t zone name
  else
    match Domain_name.Map.find zone t.hashed with
    | Some { by_hash; parameters } when parameters.iterations <= max_iterations ->
        let has_hash name = Domain_name.equal name zone || By_hash.mem (hash parameters name) by_hash in
        let rec provable name = if has_hash name then name else provable (above name) in
        let encloser = provable name in
        proofs t zone (if Domain_name.equal encloser name then [ name ] else [ encloser; next_closer name encloser ])
    | _ -> proof t zone name

(* That only a wildcard has the name. *)
let only_wildcard t zone name =
  if Domain_name.Set.mem name t.names then Name_rr_map.empty
  else proof t zone (if has_hashes t zone then next_closer name (closest_encloser t name) else name)

type sections = { answer : Wire.record list; authority : Name_rr_map.t; additional : Name_rr_map.t }

(* [Leads_to]: an alias to what is not ours. *)
type reply =
  | Known of int * sections * [ `Authoritative | `Referral ]  (** with a code *)
  | Leads_to of sections * [ `raw ] Domain_name.t

let empty = { answer = []; authority = Name_rr_map.empty; additional = Name_rr_map.empty }

let glue trie hosts =
  Domain_name.Host_set.fold
    (fun host map ->
      let add kind value map =
        match value with Some value -> Name_rr_map.add (Domain_name.raw host) kind value map | None -> map
      in
      let v4, v6 = Dns_trie.lookup_glue host trie in
      add Rr_map.A v4 (add Rr_map.Aaaa v6 map))
    hosts Name_rr_map.empty

let without_signatures = Domain_name.Map.map (Rr_map.remove Rr_map.Rrsig)

(* [dnssec]: signatures and proofs are wanted; they are left out of zones without them. *)
let reply t ~dnssec (name, Rr_map.K kind) =
  let wants zone = dnssec && is_signed t zone in
  let plain zone map = if wants zone then map else without_signatures map in
  let prove zone sections map =
    if wants zone then { sections with authority = Name_rr_map.union sections.authority map } else sections
  in
  let with_soa zone soa sections =
    { sections with authority = Name_rr_map.union sections.authority (plain zone (set t zone Rr_map.Soa soa)) }
  in
  let rec at name left sections =
    let positive (Rr_map.B (kind, value)) zone =
      let map = plain zone (set t ~source:(source t name) name kind value) in
      let sections = { sections with answer = sections.answer @ Wire.of_map map } in
      prove zone sections (only_wildcard t zone name)
    in
    match Dns_trie.lookup_with_cname name kind t.trie with
    | Ok ((Rr_map.B (Rr_map.Cname, (_, target)) as alias), (zone, _, _)) when Rr_map.to_int kind <> Rr_map.to_int Rr_map.Cname ->
        let sections = positive alias zone in
        if left = 0 then Known (Message.server_failure, empty, `Authoritative)
        else (
          match Dns_trie.lookup_with_cname target kind t.trie with
          | Error (`Delegation _ | `NotAuthoritative) -> Leads_to (sections, target)
          | _ -> at target (left - 1) sections)
    | Ok ((Rr_map.B (kind, value) as found), (zone, _, _)) ->
        let additional = glue t.trie (Rr_map.names kind value) in
        Known (Message.no_error, { (positive found zone) with additional }, `Authoritative)
    | Error (`EmptyNonTerminal (zone, soa)) ->
        Known (Message.no_error, prove zone (with_soa zone soa sections) (lacks_type t zone name), `Authoritative)
    | Error (`NotFound (zone, soa)) ->
        Known (Message.no_such_name, prove zone (with_soa zone soa sections) (absent t zone name), `Authoritative)
    | Error `NotAuthoritative -> Known (Message.refused, empty, `Referral)
    | Error (`Delegation (cut, ns)) -> delegated cut ns
  and delegated cut ((_, hosts) as ns) =
    match Dns_trie.zone (above cut) t.trie with
    | Error _ -> Known (Message.refused, empty, `Referral)
    | Ok (zone, soa) -> (
        let is_asked = Domain_name.equal cut name && Rr_map.to_int kind = Rr_map.to_int Rr_map.Ds in
        match Domain_name.Map.find cut t.signers with
        | Some ds when is_asked ->
            Known (Message.no_error, { empty with answer = Wire.of_map (plain zone (set t cut Rr_map.Ds ds)) }, `Authoritative)
        | None when is_asked ->
            Known (Message.no_error, prove zone (with_soa zone soa empty) (lacks_type t zone cut), `Authoritative)
        | signer ->
            let sections = { empty with authority = Name_rr_map.singleton cut Rr_map.Ns ns; additional = glue t.trie hosts } in
            let proof = match signer with Some ds -> set t cut Rr_map.Ds ds | None -> lacks_type t zone cut in
            Known (Message.no_error, prove zone sections proof, `Referral))
  in
  at name max_aliases empty

(* Whether the library's own answer does not do. *)
let is_needed t ~dnssec (name, Rr_map.K kind) =
  match Dns_trie.lookup_with_cname name kind t.trie with
  | Ok (Rr_map.B (Rr_map.Cname, _), _) when Rr_map.to_int kind <> Rr_map.to_int Rr_map.Cname -> true
  | Error (`Delegation (cut, _)) when Domain_name.equal cut name && Rr_map.to_int kind = Rr_map.to_int Rr_map.Ds -> true
  | Error `NotAuthoritative -> false
  | _ -> dnssec && not (Domain_name.Map.is_empty t.signatures)

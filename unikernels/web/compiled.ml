(* The files that are part of the image. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

module Make (Files : Mirage_kv.RO) = struct
  (* One copy of a file for all who are being sent it, and none when nobody is. The files never change. *)
  let known : (Mirage_kv.Key.t, string * string Weak.t) Hashtbl.t = Hashtbl.create 97

  let file tag text = Some { Site.size = String.length text; tag; read = Site.of_text text }

  let load files key =
    Files.get files key >>= function
    | Error _ -> Lwt.return_none
    | Ok text ->
        Files.digest files key >|= fun digest ->
        let tag = match digest with Ok digest -> Fmt.str "\"%s\"" (Ohex.encode digest) | Error _ -> "" in
        let copy = Weak.create 1 in
        Weak.set copy 0 (Some text);
        Hashtbl.replace known key (tag, copy);
        file tag text

  let find files key =
    match Option.map (fun (tag, copy) -> (tag, Weak.get copy 0)) (Hashtbl.find_opt known key) with
    | Some (tag, Some text) -> Lwt.return (file tag text)
    | _ -> load files key

  let is_folder files key = Files.exists files key >|= function Ok (Some `Dictionary) -> true | _ -> false
  let files files = { Site.find = find files; is_folder = is_folder files }
end

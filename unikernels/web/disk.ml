(* The text on the domain's first disk (xvda), padded with zeros. A block device of config.ml has to be there at every
   boot; this one is looked for only when it is asked for, so that one image runs with a disk and without.
   SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

(* 202 << 8: the number of xvda, as in Xen's docs/man/xen-vbd-interface.7. *)
let first = "51712"

let text () =
  Block.connect first >>= fun disk ->
  Block.get_info disk >>= fun info ->
  let sectors = List.init (Int64.to_int info.size_sectors) (fun _ -> Cstruct.create info.sector_size) in
  Block.read disk 0L sectors >|= function
  | Error error -> Fmt.failwith "disk xvda cannot be read: %a" Block.pp_error error
  | Ok () -> List.hd (String.split_on_char '\000' (Cstruct.to_string (Cstruct.concat sectors)))

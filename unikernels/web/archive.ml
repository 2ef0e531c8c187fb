(* The files of a tar archive (POSIX.1-1988's ustar) on the domain's second disk, xvdb. What is where is read at the start, a file's
   bytes when somebody is sent them: there may be more of them than memory. SPDX-License-Identifier: GPL-3.0-or-later *)
open Lwt.Infix

(* (202 << 8) + 16: the number of xvdb, as in Xen's docs/man/xen-vbd-interface.7. *)
let second = "51728"

(* Bytes of a header, to a multiple of which a file is padded. *)
let block = 512

(* Sectors of one request to the disk, 64 KiB. *)
let most = 16

type disk = { device : Block.t; sector : int; length : int  (** in bytes *) }

let read { device; sector; length } at size =
  if at < 0 || size < 0 || at + size > length then Fmt.failwith "disk xvdb ends at %d: there are no %d bytes at %d" length size at;
  let text = Bytes.create size in
  let rec from done_ =
    if done_ = size then Lwt.return (Bytes.unsafe_to_string text)
    else
      let start = (at + done_) / sector and skip = (at + done_) mod sector in
      let count = min most ((skip + size - done_ + sector - 1) / sector) in
      let buffers = List.init count (fun _ -> Cstruct.create sector) in
      Block.read device (Int64.of_int start) buffers >>= function
      | Error error -> Fmt.failwith "disk xvdb cannot be read: %a" Block.pp_error error
      | Ok () ->
          let read = Cstruct.concat buffers in
          let part = min (size - done_) (Cstruct.length read - skip) in
          Cstruct.blit_to_bytes read skip text done_ part;
          from (done_ + part)
  in
  from 0

type entry = File of { at : int; size : int; tag : string } | Folder

(* A field of a header: text up to a zero, and a number in octal digits. *)
let field header at size = List.hd (String.split_on_char '\000' (String.sub header at size))

let number header at size =
  match int_of_string_opt ("0o" ^ String.trim (field header at size)) with Some number when number >= 0 -> number | _ -> -1

(* The sum of a header's bytes, its own eight taken for spaces. *)
let sum header =
  let sum = ref 0 in
  String.iteri (fun at c -> sum := !sum + if at >= 148 && at < 156 then 0x20 else Char.code c) header;
  !sum

(* The owner's name has the file's digest. *)
let entry header at =
  let size = number header 124 12 in
  if number header 148 8 <> sum header || size < 0 then Fmt.failwith "disk xvdb has no tar archive: no header at %d" at;
  let name = field header 0 100 and prefix = field header 345 155 in
  let name = if prefix = "" then name else prefix ^ "/" ^ name in
  match header.[156] with
  | '0' -> (name, size, File { at = at + block; size; tag = Fmt.str "\"%s\"" (field header 265 32) })
  | '5' -> (name, size, Folder)
  | kind -> Fmt.failwith "disk xvdb: %S is of the kind %C, neither a file nor a folder" name kind

let rec add_folders entries key =
  let parent = Mirage_kv.Key.parent key in
  if not (Hashtbl.mem entries parent) then begin
    Hashtbl.replace entries parent Folder;
    add_folders entries parent
  end

(* Small files are side by side, so each request brings several headers. *)
let index disk =
  let entries = Hashtbl.create 97 in
  let window = ref (0, "") in
  let header at =
    let start, text = !window in
    if at >= start && at + block <= start + String.length text then Lwt.return (String.sub text (at - start) block)
    else
      read disk at (min (most * disk.sector) (disk.length - at)) >|= fun text ->
      window := (at, text);
      String.sub text 0 block
  in
  let rec from at =
    if at + block > disk.length then Lwt.return entries
    else
      header at >>= fun header ->
      if String.for_all (fun c -> c = '\000') header then Lwt.return entries
      else begin
        let name, size, entry = entry header at in
        (* A folder without a file has nothing to serve. *)
        if entry <> Folder then begin
          let key = Mirage_kv.Key.v name in
          Hashtbl.replace entries key entry;
          add_folders entries key
        end;
        from (at + block + ((size + block - 1) / block * block))
      end
  in
  from 0

let files () =
  Block.connect second >>= fun device ->
  Block.get_info device >>= fun { Mirage_block.sector_size = sector; size_sectors; _ } ->
  let disk = { device; sector; length = Int64.to_int size_sectors * sector } in
  index disk >|= fun entries ->
  let find key =
    match Hashtbl.find_opt entries key with
    | Some (File { at; size; tag }) -> Some { Site.size; tag; read = (fun first length -> read disk (at + first) length) }
    | Some Folder | None -> None
  in
  let is_folder key = Hashtbl.find_opt entries key = Some Folder in
  { Site.find = (fun key -> Lwt.return (find key)); is_folder = (fun key -> Lwt.return (is_folder key)) }

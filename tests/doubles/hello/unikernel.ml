let greeting = "Hello from one"
let start () = Logs.info (fun m -> m "%s" greeting); Lwt.return_unit

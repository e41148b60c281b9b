-- title = "Kernel module or other kernel from a container"
-- description = "A process in a container loaded or removed a kernel module, or asked for another kernel, or tried to: a module runs in the host's kernel, outside every container."
-- message = "{program} calls {call} ({evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "experimental"
-- risk = 90
-- attack = ["T1547.006", "T1611"]
-- false_positives = ["node agents whose work it is to load drivers, from privileged containers"]
-- blind_spots = ["modules that the kernel loads for what a container asks of it, such as a protocol", "modprobe that finds no module to load"]
-- references = ["https://attack.mitre.org/techniques/T1547/006/", "https://attack.mitre.org/techniques/T1611/"]
-- response = "If it succeeded, treat the host as taken. If it was refused: cut the container off, and look at how the program came there."
-- dedup = { key = ["call", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_type AS call,
  evt_outcome,
  evt_res,
  fd_name AS file,
  evt_args['name'] AS module,
  evt_args['uargs'] AS parameters,
  container_privileged,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('init_module', 'finit_module', 'delete_module', 'kexec_load', 'kexec_file_load')

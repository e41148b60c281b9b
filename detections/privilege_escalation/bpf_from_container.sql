-- title = "BPF program loaded from a container"
-- description = "A process in a container loaded a program into the kernel by bpf(2), or tried to: it sees and changes what every process of the host does."
-- message = "{program} loads a BPF program ({evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1014", "T1068"]
-- false_positives = ["network plug-ins, service meshes and observability agents that are made of BPF, in their privileged containers"]
-- blind_spots = ["programs attached by other ways, such as classic filters of sockets", "programs that were loaded before the sensor"]
-- references = ["https://attack.mitre.org/techniques/T1014/", "https://attack.mitre.org/techniques/T1068/"]
-- response = "Compare with the agents you run. bpftool prog on the host lists what is loaded, and who holds it."
-- dedup = { key = ["program"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_outcome,
  evt_res,
  container_privileged,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'bpf'
  AND evt_args['cmd'] IN ('BPF_PROG_LOAD', 'BPF_RAW_TRACEPOINT_OPEN', 'BPF_LINK_CREATE', 'BPF_PROG_ATTACH')

-- title = "Raw packets in a container"
-- description = "A process in a container opened a socket that sees or sends raw packets: to listen to others, to send forged ones, or to scan without a connection."
-- message = "{program} opens a socket for raw packets ({domain}, {type}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 55
-- attack = ["T1040", "T1557.002", "T1046"]
-- false_positives = ["tcpdump and its kin in the hands of people", "programs that keep an address (keepalived), ask for one (DHCP), or load-balance"]
-- blind_spots = ["sockets that were made by another process and handed over", "ping's own kind of socket"]
-- references = ["https://attack.mitre.org/techniques/T1040/", "https://attack.mitre.org/techniques/T1557/002/"]
-- response = "Find out who runs it. Take CAP_NET_RAW away from containers that do not need it."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_args['domain'] AS domain,
  evt_args['type'] AS type,
  evt_args['proto'] AS proto,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'socket'
  AND evt_outcome = 'success'
  AND (
    evt_args['domain'] IN ('AF_PACKET', 'AF_XDP')
    OR (
      evt_args['domain'] IN ('AF_INET', 'AF_INET6')
      AND evt_args['type'] IN ('SOCK_RAW', 'SOCK_PACKET')
      AND evt_args['proto'] NOT IN ('1', '58')
    )
  )

-- title = "Cluster's control asked by hand in a container"
-- description = "A program that fetches whatever it is told to contacted a port where a cluster is ruled from: Kubernetes' API and kubelet, etcd, Docker over TCP, Consul, Vault. Applications use a library of theirs for that."
-- message = "{program} contacts {peer_ip}:{peer_port} ({evt_outcome}) from container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 55
-- attack = ["T1613", "T1552.007"]
-- false_positives = ["operators' jobs that call the API with curl", "other services that listen on these ports"]
-- blind_spots = ["the API at port 443, which is like any other", "an application or a client of the cluster's (kubectl) that an intruder uses"]
-- references = ["https://attack.mitre.org/techniques/T1613/", "https://attack.mitre.org/techniques/T1552/007/"]
-- response = "Look at which account the pod has, and at the API's audit log for what was asked."
-- dedup = { key = ["program", "peer_ip", "peer_port"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_sip AS peer_ip,
  fd_sport AS peer_port,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'connect'
  AND fd_sport IN (2375, 2376, 2379, 2380, 4194, 6443, 8001, 8200, 8500, 10248, 10250, 10255, 10256, 10257, 10259, 16443)
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND (
    program IN (SELECT name FROM general_readers)
    OR program IN (SELECT name FROM shells)
    OR program IN (SELECT name FROM relays)
    OR one_liner
  )

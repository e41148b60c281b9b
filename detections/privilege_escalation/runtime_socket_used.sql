-- title = "Container runtime's socket used from a container"
-- description = "A process in a container connected to the socket of Docker, containerd, CRI-O or Podman: whoever may speak to it starts a privileged container, and has the host."
-- message = "{program} connects to {socket} ({evt_outcome}) from container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1610", "T1611", "T1552.007"]
-- false_positives = ["tools that are given the socket: proxies and log shippers that ask for labels, updaters, dashboards, CI runners"]
-- blind_spots = ["the runtime's address over TCP", "a socket mounted under another name"]
-- references = ["https://attack.mitre.org/techniques/T1610/", "https://attack.mitre.org/techniques/T1611/"]
-- response = "If the program is none of your tools: look at which containers were started since (docker ps -a, crictl pods), and treat the host as taken."
-- dedup = { key = ["program", "socket"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_name AS socket,
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
  AND fd_family = 'unix'
  AND (evt_outcome <> 'failed' OR evt_res IN ('EACCES', 'EPERM'))
  AND regexp_like(fd_name, '/(docker|containerd|containerd\.sock|crio|cri-dockerd|podman|buildkitd|k3s/containerd/containerd)\.sock(\.ttrpc)?$')

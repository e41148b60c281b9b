-- title = "Privileged container"
-- description = "A container runs privileged, or shares the host's processes: what runs in it has, or nearly has, the host."
-- message = "container {container} ({container_image}) is privileged: {container_privileged}, sees the host's processes: {container_host_pid}"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1610"]
-- false_positives = ["node agents: storage, network, monitoring, Dogwatch's own sensor"]
-- blind_spots = ["single capabilities, devices and mounts of the host, which are in dogwatch.containers alone", "containers whose metadata is not known"]
-- references = ["https://attack.mitre.org/techniques/T1610/"]
-- response = "Compare with the list of those that may. Give the container the one capability that it needs."
-- dedup = { key = ["container_image"], period = "24h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  container_privileged,
  container_host_pid,
  container_host_network,
  container_start_ts,
  k8s_ns_name,
  k8s_pod_name
FROM events
WHERE evt_type = 'container'
  AND (container_privileged OR container_host_pid)

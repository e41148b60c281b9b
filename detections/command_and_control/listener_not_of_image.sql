-- title = "Container listens at a port that its image does not use"
-- description = "A container of a well known image begins to wait for connections at a port that is not in the list of that image's ports: somebody else's server in it, or a port that a site configured."
-- message = "{program} waits for connections at {address}:{port} in container {container} ({container_image}), whose image is known for other ports"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1571", "T1205"]
-- false_positives = ["a server that is configured for another port: add it to lists/image_ports.csv"]
-- blind_spots = ["images that are not in lists/image_ports.csv", "ports that are opened for UDP", "listeners that were there before the sensor"]
-- references = ["https://attack.mitre.org/techniques/T1571/"]
-- response = "Look at what program it is, who started it, and who connected (accept)."
-- dedup = { key = ["port"], period = "6h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_lip AS address,
  fd_lport AS port,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'listen'
  AND evt_outcome = 'success'
  AND fd_family IN ('ipv4', 'ipv6')
  AND coalesce(fd_lip, '') <> '::1'
  AND coalesce(fd_lip, '') NOT LIKE '127.%'
  AND regexp_replace(container_image_repository, '^(docker\.io/)?(library/)?', '') IN (SELECT image FROM image_ports)
  AND regexp_replace(container_image_repository, '^(docker\.io/)?(library/)?', '') || ':' || CAST(fd_lport AS VARCHAR) NOT IN (SELECT port FROM image_ports)

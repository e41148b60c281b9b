-- title = "User namespace made in a container"
-- description = "A process in a container made a user namespace: inside it has every capability, and reaches parts of the kernel that are closed to it otherwise. Most exploits of the kernel begin so."
-- message = "{program} makes a user namespace by {call} ({evt_outcome}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1611", "T1068"]
-- false_positives = ["browsers and other programs that put themselves into a sandbox", "image builders without root (buildah, kaniko, rootless BuildKit)"]
-- blind_spots = ["namespaces made by clone3, whose flags are in memory"]
-- references = ["https://attack.mitre.org/techniques/T1611/", "https://attack.mitre.org/techniques/T1068/"]
-- response = "Docker's own profile forbids it without CAP_SYS_ADMIN: find out why this container may. Look at what the process did next, above all at failures of the kernel."
-- dedup = { key = ["program"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_type AS call,
  evt_args['flags'] AS flags,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('unshare', 'clone')
  AND evt_args['flags'] LIKE '%CLONE_NEWUSER%'
  AND (evt_outcome = 'success' OR evt_res IN ('EPERM', 'EACCES', 'ENOSPC'))

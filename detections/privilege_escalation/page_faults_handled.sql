-- title = "Page faults handled by a program of a user in a container"
-- description = "A process that is not root in a container handles page faults by itself (userfaultfd): exploits of the kernel stop it in the middle of its work so. Few programs use it: virtual machines, migrating processes, some garbage collectors."
-- message = "{program} handles page faults by itself in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1068"]
-- false_positives = ["virtual machines and run times with such a garbage collector"]
-- blind_spots = ["exploits that stop the kernel by FUSE or by other means"]
-- references = ["https://attack.mitre.org/techniques/T1068/"]
-- response = "Find out what the program is. Docker's own profile forbids the call: find out why this container may."
-- dedup = { key = ["program"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_outcome,
  evt_args['flags'] AS flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'userfaultfd'
  AND evt_outcome = 'success'
  AND user_host_uid IS NOT NULL
  AND user_host_uid <> 0

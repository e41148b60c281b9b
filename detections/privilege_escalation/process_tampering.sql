-- title = "Process traced or written to by another in a container"
-- description = "A process in a container attached to another one, wrote into its memory, read it, or took a descriptor out of it: to inject code, to take secrets, to hide in a process that is trusted."
-- message = "{program} reaches into another process by {how} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1055.008", "T1055.009", "T1003.007"]
-- false_positives = ["debuggers, profilers and crash reporters", "sandboxes that trace what they run (gVisor, proot, User Mode Linux)"]
-- blind_spots = ["memory that is read through /proc/PID/mem", "a process that asks its parent to trace it, and is then changed by it without PTRACE_POKE", "which process it was done to, in the message"]
-- references = ["https://attack.mitre.org/techniques/T1055/008/", "https://attack.mitre.org/techniques/T1055/009/"]
-- response = "Find out who debugs in that container. If nobody does: keep the container's memory, look at what the program did before, and stop it."
-- dedup = { key = ["program", "how"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(evt_args['request'], fd_name, evt_type) AS how,
  coalesce(evt_args['pid'], evt_args['target_fd']) AS target,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('ptrace', 'process_vm_readv', 'process_vm_writev', 'pidfd_getfd', 'open', 'openat', 'openat2', 'creat')
  AND (
    (evt_type = 'ptrace' AND evt_args['request'] IN ('PTRACE_ATTACH', 'PTRACE_SEIZE', 'PTRACE_POKETEXT', 'PTRACE_POKEDATA', 'PTRACE_SETREGS', 'PTRACE_SETREGSET'))
    OR evt_type IN ('process_vm_readv', 'process_vm_writev', 'pidfd_getfd')
    OR (evt_is_open_write AND regexp_like(fd_name, '^/proc/[0-9]+/(task/[0-9]+/)?mem$'))
  )
  AND (evt_outcome = 'success' OR evt_res IN ('EPERM', 'EACCES'))
  -- A process may write to itself.
  AND fd_name IS DISTINCT FROM concat('/proc/', CAST(proc_vpid AS VARCHAR), '/mem')

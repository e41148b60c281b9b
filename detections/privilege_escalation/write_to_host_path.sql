-- title = "Write to the host by a process that came out of a container"
-- description = "A process that belongs to a container opened a file of the host for writing: it stands in the host's mount namespace, has left its container's cgroup, or reaches a path of the host that decides what the host runs, through a mount, a device or the kernel's own files. This is how a container is left."
-- message = "{program} of container {container} ({container_image}) on {host_name} writes {place}, as host user {user_host_uid}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "stable"
-- risk = 95
-- attack = ["T1611", "T1053.003", "T1068"]
-- false_positives = ["agents that manage their node from a privileged container (storage and network plug-ins, node updaters)", "containers that are given a folder below the host's /etc to keep", "an ordinary file that is called release_agent, where the sensor cannot tell what it lies on"]
-- blind_spots = ["writes that were refused", "files moved or linked, not opened for writing", "devices of the host's disks made under another name", "writes of a program of the host that the container talked into it, as by the container runtime's socket"]
-- references = ["https://attack.mitre.org/techniques/T1611/", "https://attack.mitre.org/techniques/T1053/003/"]
-- response = "Treat the host as taken: cut it off, keep the file and the process tree, look at what the host ran since, and build it anew."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  host_name,
  container_id,
  container_origin_id,
  CASE WHEN container_id = 'host' THEN container_origin_id ELSE container END AS container,
  container_image,
  container_privileged,
  program,
  coalesce(fd_host_name, fd_name) AS file,
  CASE
    WHEN fd_host_name IS NOT NULL THEN concat(fd_host_name, ' of the host')
    WHEN fd_filename = 'release_agent' AND fd_from = 'kernel' THEN concat(fd_name, ', which the host runs')
    WHEN fd_filename = 'release_agent' THEN concat(fd_name, ', which the host runs if it is a control group''s')
    ELSE concat(fd_name, ', which is the host''s or its kernel''s')
  END AS place,
  fd_name,
  fd_flags,
  proc_in_host_mntns,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND (evt_is_open_write OR evt_is_open_create)
  AND evt_outcome = 'success'
  AND (
    -- In the host's own tree of files: any file. Devices and the kernel's files come below.
    (
      (proc_in_host_mntns OR container_origin_id IS NOT NULL)
      AND fd_host_name IS NOT NULL
      AND NOT regexp_like(fd_host_name, '^/(dev|proc|sys)/')
      AND coalesce(fd_type, 'file') IN ('file', 'directory', 'other')
    )
    -- Through a mount of the host's: what the host runs, trusts or starts from.
    OR regexp_like(
      fd_host_name,
      '^/(etc|boot|s?bin|lib[0-9]*|usr/(local/)?(s?bin|lib[0-9]*|libexec))/|^(/root|/home/[^/]+)/(\.ssh/|\.bash|\.profile|\.zsh|\.config/(autostart|systemd)/)|^/var/spool/(cron|at)/|^/var/lib/(kubelet|systemd|cloud|rancher|containerd)/|^/(run|var/run)/(systemd|containerd|docker)/|^/opt/cni/|^/var/lib/docker/(overlay2|containers/[0-9a-f]+/(config\.v2|hostconfig)\.json|volumes/metadata\.db)'
    )
    -- The kernel's files that run a program of the writer's choice on the host: not an ordinary file of that name.
    OR (
      coalesce(fd_from, 'kernel') = 'kernel'
      AND regexp_like(
        fd_name,
        '/[^/]+/release_agent$|/proc/sys/(kernel/(core_pattern|modprobe|hotplug|poweroff_cmd|usermodehelper/[^/]+)|fs/binfmt_misc/[^/]+)$|/proc/sysrq-trigger$|/sys/kernel/uevent_helper$|/devices\.allow$'
      )
    )
    -- The host's disks and memory.
    OR regexp_like(fd_name, '/dev/((sd|hd|vd|xvd)[a-z]+[0-9]*|(nvme[0-9]+n|mmcblk)[0-9]+(p[0-9]+)?|(dm-|md)[0-9]+|mapper/[^/]+|k?mem|port)$')
  )

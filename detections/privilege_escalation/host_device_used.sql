-- title = "Disk or memory of the host opened in a container"
-- description = "A process in a container opened a disk of the host, or its memory, as a device, or made a file for such a device: debugfs, dd and a program's own code read every file of the host so, past all permissions."
-- message = "{program} uses the device {device} ({call}, {evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1611", "T1006"]
-- false_positives = ["node agents that look after disks (SMART, LVM, storage plug-ins) from privileged containers"]
-- blind_spots = ["devices under another name that were there before the sensor", "the second read in an hour by the same program, of devices that are no files of these names"]
-- reads = [
--   "/dev/sd*", "/dev/hd*", "/dev/vd*", "/dev/xvd*", "/dev/nvme*", "/dev/mmcblk*", "/dev/dm-*", "/dev/md*",
--   "/dev/mapper", "/dev/mem", "/dev/kmem", "/dev/port",
-- ]
-- references = ["https://attack.mitre.org/techniques/T1611/", "https://attack.mitre.org/techniques/T1006/"]
-- response = "Treat what the host keeps as known to others, and the host as changed where the device was opened for writing. Take the device away from the container."
-- dedup = { key = ["program", "device"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fd_name, evt_args['dev']) AS device,
  evt_type AS call,
  evt_args['dev'] AS number,
  fd_flags,
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
WHERE evt_type IN ('open', 'openat', 'openat2', 'mknod', 'mknodat')
  AND (evt_outcome = 'success' OR evt_res IN ('EPERM', 'EACCES'))
  AND (
    (evt_type IN ('open', 'openat', 'openat2') AND starts_with(fd_name, '/dev/') AND regexp_like(fd_name, '^/dev/((sd|hd|vd|xvd)[a-z]+[0-9]*|(nvme[0-9]+n|mmcblk)[0-9]+(p[0-9]+)?|(dm-|md)[0-9]+|mapper/[^/]+|k?mem|port)$'))
    OR (
      evt_type IN ('mknod', 'mknodat')
      AND (regexp_like(evt_args['mode'], '^06[0-7]{4}$') OR (regexp_like(evt_args['mode'], '^02[0-7]{4}$') AND evt_args['dev'] IN ('1:1', '1:2', '1:4')))
    )
  )

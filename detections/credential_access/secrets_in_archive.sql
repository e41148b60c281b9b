-- title = "Secrets taken along in an archive or a copy of a tree"
-- description = "A program that makes archives, backups or mirrors of whole trees, or a copy of a folder with all below it, took password hashes, keys or credentials along. Backups do so; so does somebody who takes a container's files away without naming what is wanted."
-- message = "{program} takes {file} along in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1560.001", "T1005", "T1552.004"]
-- false_positives = ["backups"]
-- blind_spots = ["archives that a container's command makes in its first quarter of an hour", "programs of other names than those of lists/archivers.csv, which sensitive_file_read sees", "archives that are made outside of the container, as docker cp and docker export do"]
-- references = ["https://attack.mitre.org/techniques/T1560/001/"]
-- response = "Ask where the archive goes and who may read it. Keep keys and credentials out of backups of whole trees."
-- reads = [
--   "*/etc/shadow*", "*/etc/gshadow*", "*/etc/sudoers", "*/sudoers.d/*", "*/.ssh/id_*", "*/ssh/ssh_host_*", "*/.aws/credentials",
--   "*/.kube/config", "*/.docker/config.json", "/etc/ssl/private",
-- ]
-- dedup = { key = ["program"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  CASE WHEN fd_host_name <> fd_name THEN concat(fd_name, ' (', fd_host_name, ' of the host)') ELSE fd_name END AS file,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_reads
WHERE secret IS NOT NULL
  AND in_bulk
  AND NOT start_script

-- title = "Secret file given another name in a container"
-- description = "A process in a container linked, renamed or bind-mounted a file of passwords, keys or credentials: what is read under the new name is looked at by nobody."
-- message = "{program} gives {source} the name {target} ({call}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 65
-- attack = ["T1555", "T1552.004", "T1036"]
-- false_positives = ["start scripts that link a mounted key to where a program looks for it"]
-- blind_spots = ["copies, whose reading sensitive_file_read sees", "a folder far above the file that is moved or linked", "relative paths of links that begin in the file's own folder"]
-- references = ["https://attack.mitre.org/techniques/T1555/", "https://attack.mitre.org/techniques/T1552/004/"]
-- response = "Find out who reads the new name. Treat what the file holds as known to others."
-- dedup = { key = ["source", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fs_path_source, evt_args['dev']) AS source,
  coalesce(fs_path_target, fd_name) AS target,
  evt_type AS call,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('link', 'linkat', 'symlink', 'symlinkat', 'rename', 'renameat', 'renameat2', 'mount')
  AND evt_outcome = 'success'
  AND (
    regexp_like(concat('/', fs_path_source), '/etc/(g?shadow([-~])?|sudoers|sudoers\.d/[^/]+|security/opasswd|krb5\.keytab|kubernetes/(admin|controller-manager|kubelet|scheduler|super-admin)\.conf|ssh/ssh_host_[a-z0-9]+_key)$|/\.ssh(/(id_[a-z0-9_]+|identity))?$|/\.(aws/credentials|docker/config\.json|kube/config|git-credentials|netrc|pgpass|my\.cnf)$|/proc/kcore$')
    OR (evt_type = 'mount' AND regexp_like(evt_args['dev'], '/etc/(g?shadow([-~])?|sudoers|sudoers\.d/[^/]+|security/opasswd|krb5\.keytab|kubernetes/(admin|controller-manager|kubelet|scheduler|super-admin)\.conf|ssh/ssh_host_[a-z0-9]+_key)$|/\.ssh(/(id_[a-z0-9_]+|identity))?$|/\.(aws/credentials|docker/config\.json|kube/config|git-credentials|netrc|pgpass|my\.cnf)$|/proc/kcore$'))
  )
  -- A package manager's own work; package_manager tells that it ran.
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  -- Tools for accounts keep the old file so.
  AND coalesce(program, '') NOT IN (SELECT name FROM credential_readers WHERE reads = 'accounts')

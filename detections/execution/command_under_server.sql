-- title = "Web server or database starts a command"
-- description = "A web server, PHP's process manager or a database started a shell with a command line, a tool that fetches files, or a line of a script language: a web shell, an injected command, COPY FROM PROGRAM, a loaded module of Redis."
-- message = "{server} starts {program} in container {container} ({container_image}), as {user_name}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 75
-- attack = ["T1190", "T1505.003", "T1059.004"]
-- false_positives = ["applications that call programs by a shell on purpose: PHP's mail(), converters of images, archive_command of PostgreSQL"]
-- blind_spots = ["CGI programs, which a server starts as a file", "applications that are their own server (node, java, python); repeated_shells counts their shells", "servers of other names than those of lists/servers.csv"]
-- references = ["https://attack.mitre.org/techniques/T1190/", "https://attack.mitre.org/techniques/T1505/003/"]
-- response = "Look at the request of that second in the server's log. Stop the container, keep its file system and search its folders of content for what was put there."
-- dedup = { key = ["server", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_pname AS server,
  proc_pexepath,
  proc_args,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE (
    proc_pname IN (SELECT name FROM servers)
    OR regexp_replace(proc_pexepath, '^.*/', '') IN (SELECT name FROM servers)
    OR regexp_like(proc_pname, '^php-(fpm|cgi)|^lsphp')
  )
  AND coalesce(proc_stage, '') <> 'healthcheck'
  -- A new database asks for the system's languages.
  AND coalesce(proc_cmdline, '') <> 'sh -c locale -a'
  AND (
    (program IN (SELECT name FROM shells) AND regexp_like(array_to_string(proc_args, ' '), '(^| )-[a-zA-Z]*c( |$)'))
    OR one_liner
    OR program IN ('curl', 'wget', 'id', 'whoami', 'uname', 'busybox', 'base64')
    OR program IN (SELECT name FROM relays)
  )

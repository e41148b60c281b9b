-- title = "Shell runs what it decodes or downloads"
-- description = "A command line decodes or downloads something and gives it to an interpreter in the same breath, so that no file is left: curl | sh, base64 -d | bash, exec of a decoded text."
-- message = "a payload is decoded or downloaded and run in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1059.004", "T1027.010", "T1140", "T1105"]
-- false_positives = ["installers that are fetched so (curl | sh) in builds and start scripts"]
-- blind_spots = ["scripts in files, and lines typed into a shell, which are no command line", "words that are spelt so that the pattern does not see them"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1027/010/"]
-- response = "Fetch or decode it yourself, on another machine, and read it. Look at what ran next in that session."
-- dedup = { key = ["proc_cmdline"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_skey,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE coalesce(proc_stage, '') <> 'healthcheck'
  AND (
    (
      program IN (SELECT name FROM shells)
      AND proc_cmdline LIKE '% -%c %'
      AND regexp_like(
        proc_cmdline,
        '\b(curl|wget|nc|base64 +(-d|-D|--decode)|openssl +(enc|base64)|xxd +-[a-z ]*r|gunzip|zcat)\b.*\| *(sudo +(-\S+ +)*)?(\S*/)?(busybox +)?((ba|da|a|k|z|tc|c)?sh|python[0-9.]*|perl|ruby|php|node|lua)( |$|;|\)|"|'')|\b(eval|source|\.|(ba|da|a|k|z)?sh( +-c)?) +"?(\$\(|`|<\() *(curl|wget|echo .*base64|base64)'
      )
    )
    OR (
      regexp_like(program, '^(python|perl|ruby|node|php|lua)')
      AND array_has_any(proc_args, make_array('-c', '-e', '-r', '-E'))
      AND regexp_like(proc_cmdline, '(exec|eval|system|popen|assert|Function)\b.*(b64decode|decode_base64|base64_decode|atob|unpack|fromhex|urlopen|file_get_contents|unhexlify)')
    )
  )

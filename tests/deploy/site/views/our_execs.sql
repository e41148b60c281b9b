-- description = "What containers execute."
SELECT * FROM events WHERE evt_type IN ('execve', 'execveat') AND container_id <> 'host'

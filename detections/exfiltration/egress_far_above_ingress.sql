-- title = "Container sends far more than it receives"
-- description = "A container sent more than a gigabyte within five minutes, and fifty times what it received: data are carried out, or it serves large files."
-- message = "container {container} ({container_image}) sent {sent_bytes} bytes and received {received_bytes} in five minutes"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1048", "T1567"]
-- false_positives = ["backups, and servers of files, images or videos"]
-- blind_spots = ["containers in the host's network namespace", "less than a gigabyte in five minutes"]
-- references = ["https://attack.mitre.org/tactics/TA0010/"]
-- response = "Look at whom it is connected with (events of type connect and accept), and at what it opened for reading."
-- dedup = { key = [], period = "6h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  sum(net_tx_bytes) AS sent_bytes,
  sum(net_rx_bytes) AS received_bytes
FROM tumble(container_samples, INTERVAL '5 minutes')
WHERE net_tx_bytes > 0
  AND container_id <> 'host'
GROUP BY window_start, window_end, container_id, container_name, container_image
HAVING sum(net_tx_bytes) >= 1000000000
  AND sum(net_tx_bytes) >= 50 * sum(net_rx_bytes)

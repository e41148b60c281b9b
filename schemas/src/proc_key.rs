//! The key of a process: the same for every sensor run, unique over reboots and reused process ids.

use crate::Text;
use sha2::{Digest, Sha256};

/// Returns 16 hexadecimal digits: the first 8 bytes of SHA-256 over host id, boot id, pid and start ticks, in decimal where numbers, joined by NUL.
///
/// `start_ticks` is the start of the thread group leader in hundredths of a second since boot (`start_boottime_ns / 10_000_000`).
/// `/proc/PID/stat` shows the same number in field 22, so that anyone can recompute a key.
pub fn proc_key(host_id: &str, boot_id: &str, pid: u32, start_ticks: u64) -> Text {
    let mut hash = Sha256::new();
    hash.update(host_id);
    hash.update([0]);
    hash.update(boot_id);
    hash.update(format!("\0{pid}\0{start_ticks}"));
    let digest = hash.finalize();
    let first = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*first)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'host\0boot\0%d\0%d' 42 1234 | sha256sum | cut -c1-16`
    #[test]
    fn a_key_is_what_sha256sum_says() {
        assert_eq!(&*proc_key("host", "boot", 42, 1234), "d3d46534b6a4bca6");
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(proc_key("a", "bc", 1, 23), proc_key("ab", "c", 1, 23));
        assert_ne!(proc_key("a", "b", 1, 23), proc_key("a", "b", 12, 3));
    }
}

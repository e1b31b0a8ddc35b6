//! The resources that a daemon uses, to compare before and after.

use std::fs::{read_dir, read_to_string, write};
use std::time::{Duration, Instant};

use crate::support::{Daemon, PATIENCE};

impl Daemon {
    /// The peak of resident memory since the start or [`Daemon::forget_peak`], in bytes.
    pub fn peak(&self) -> u64 {
        self.status_line("VmHWM")
    }

    /// Resets the peak to the present resident memory.
    pub fn forget_peak(&self) {
        // 5 resets the high-water mark: proc(5).
        write(self.proc("clear_refs"), "5").unwrap();
    }

    /// The peak of address space, in bytes.
    pub fn peak_address_space(&self) -> u64 {
        self.status_line("VmPeak")
    }

    /// The number of open descriptors.
    pub fn descriptors(&self) -> usize {
        read_dir(self.proc("fd")).unwrap().count()
    }

    /// Waits until at most `before` descriptors are open: then every later socket is closed, and the task that held it has
    /// ended.
    pub fn wait_for_descriptors(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.descriptors() > before {
            assert!(Instant::now() < deadline, "{} descriptors, {before} before", self.descriptors());
            std::thread::yield_now();
        }
    }

    /// The CPU time of all its threads.
    pub fn processor_time(&self) -> Duration {
        let text = read_to_string(self.proc("stat")).unwrap();
        // The second field, the program's name in parentheses, may contain blanks.
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid())
    }

    /// A field of /proc/PID/status, which is in KiB.
    fn status_line(&self, name: &str) -> u64 {
        let text = read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

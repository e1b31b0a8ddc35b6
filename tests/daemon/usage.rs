//! What a daemon uses of its machine, to compare before and after.

use std::fs::{read_dir, read_to_string, write};
use std::time::{Duration, Instant};

use crate::support::{Daemon, PATIENCE};

impl Daemon {
    /// The most resident memory since its start or [`Daemon::forget_peak`], in bytes.
    pub fn peak(&self) -> u64 {
        self.status_line("VmHWM")
    }

    /// Lets the peak start again from what is resident now.
    pub fn forget_peak(&self) {
        // 5 resets the high-water mark: proc(5).
        write(self.proc("clear_refs"), "5").unwrap();
    }

    /// The most address space so far, in bytes.
    pub fn peak_address_space(&self) -> u64 {
        self.status_line("VmPeak")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        read_dir(self.proc("fd")).unwrap().count()
    }

    /// Waits until no more descriptors are open than `before`: every socket that came since is closed, and the task that
    /// held it has ended.
    pub fn wait_for_descriptors(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.descriptors() > before {
            assert!(Instant::now() < deadline, "{} descriptors, {before} before", self.descriptors());
            std::thread::yield_now();
        }
    }

    /// The processor time of all its threads.
    pub fn processor_time(&self) -> Duration {
        let text = read_to_string(self.proc("stat")).unwrap();
        // The second field, the program's name in parentheses, may hold blanks.
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid())
    }

    /// A figure of /proc/PID/status, which is in KiB.
    fn status_line(&self, name: &str) -> u64 {
        let text = read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

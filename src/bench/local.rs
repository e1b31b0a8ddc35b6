//! Reads the CPU time and the memory of a server on this machine.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(u32);

impl Process {
    /// The process with this id, if it exists and its memory can be read.
    pub(super) fn new(pid: u32) -> Option<Process> {
        let process = Process(pid);
        (process.resident()? > 0).then_some(process)
    }

    /// The CPU time of its threads, as the scheduler counts it.
    pub(super) fn time(self) -> Option<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).ok()? {
            // A thread that ended after the directory was read has hardly run since.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
            nanoseconds += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory in bytes, without shared pages: those of its program are loaded when code first runs.
    pub(super) fn resident(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.0)).ok()?;
        let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
    }

    /// The cores on which it may run.
    pub(super) fn cores(self) -> Option<CpuSet> {
        let pid = Pid::from_raw(i32::try_from(self.0).ok()?)?;
        rustix::thread::sched_getaffinity(Some(pid)).ok()
    }
}

/// The CPU time of the calling thread.
pub(super) fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

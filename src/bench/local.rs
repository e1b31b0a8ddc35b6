//! What a server on this machine uses: the scheduler's count of its time, and its memory.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(u32);

impl Process {
    /// The process with this id, if there is one that tells its figures.
    pub(super) fn new(pid: u32) -> Option<Process> {
        let process = Process(pid);
        (process.resident()? > 0).then_some(process)
    }

    /// Time that its threads have run, by the scheduler's count.
    pub(super) fn time(self) -> Option<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).ok()? {
            // A thread that ends while it is looked at has done next to nothing since.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
            nanoseconds += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanoseconds))
    }

    /// Its memory that is in RAM, in bytes, without the pages of its program, which come in as code is first run.
    pub(super) fn resident(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.0)).ok()?;
        let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
    }

    /// The cores that it may run on.
    pub(super) fn cores(self) -> Option<CpuSet> {
        let pid = Pid::from_raw(i32::try_from(self.0).ok()?)?;
        rustix::thread::sched_getaffinity(Some(pid)).ok()
    }
}

/// Time that the calling thread has run.
pub(super) fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

//! Writing what a publish has touched: a few outboxes at once, many spread over the workers.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Server;
use crate::hub::Touched;

/// Outboxes that one task writes before it lets others run: some 1.5 ms of system calls.
const OUTBOXES_PER_TASK: usize = 256;

/// Writes what was touched. Few outboxes are written before this returns; more are left to the returned tasks, which
/// the publisher awaits before it reads on, so that it can't run ahead of its readers' sockets.
pub(super) fn flush(server: &Arc<Server>, touched: &mut Touched) -> Option<Box<JoinSet<()>>> {
    if touched.len() <= OUTBOXES_PER_TASK {
        touched.flush(server.now());
        return None;
    }
    let mut tasks = Box::new(JoinSet::new());
    while !touched.is_empty() {
        let mut chunk = touched.split_off(OUTBOXES_PER_TASK);
        let server = server.clone();
        tasks.spawn(async move { chunk.flush(server.now()) });
    }
    Some(tasks)
}

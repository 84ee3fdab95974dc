//! What the system says of a process and its children.

use std::fs;

/// CPU and memory of a process with all its threads and children.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time on a CPU since the start, in microseconds (`/proc/PID/task/TID/schedstat`).
    pub cpu_us: f64,
    /// Resident set in KiB.
    pub resident_kib: u64,
}

/// What `pid` has cost so far; nothing for a process that is gone.
#[must_use]
pub fn of(pid: u32) -> Cost {
    let mut cost = Cost::default();
    for pid in family(pid) {
        for thread in threads(pid) {
            let path = format!("/proc/{pid}/task/{thread}/schedstat");
            let text = fs::read_to_string(path).unwrap_or_default();
            let nanos: f64 = text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
            cost.cpu_us += nanos / 1e3;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        cost.resident_kib += kib.unwrap_or(0);
    }
    cost
}

/// A process and its descendants.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for thread in threads(pid) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            all.extend(family(child));
        }
    }
    all
}

fn threads(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

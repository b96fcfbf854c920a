//! What a process costs, as the kernel counts it.

use std::path::PathBuf;

pub struct Process(PathBuf);

/// Megabytes.
pub struct Memory {
    /// With the shared buffers that it has touched.
    pub resident: f64,
    /// Without them.
    pub own: f64,
    /// The most that was ever resident.
    pub most: f64,
}

/// One thread of a process.
#[allow(dead_code)]
pub fn thread(pid: usize, tid: usize) -> Process {
    Process(format!("/proc/{pid}/task/{tid}").into())
}

impl Process {
    pub fn new(pid: usize) -> Self {
        Self(format!("/proc/{pid}").into())
    }

    pub fn own() -> Self {
        Self("/proc/self".into())
    }

    /// Seconds of CPU up to now.
    pub fn cpu(&self) -> f64 {
        let stat = self.read("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks =
            fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        // The kernel shows hundredths, whatever it counts.
        ticks.sum::<f64>() / 100.0
    }

    pub fn memory(&self) -> Memory {
        let status = self.read("status");
        let megabytes = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap()
                / 1024.0
        };
        Memory { resident: megabytes("VmRSS"), own: megabytes("RssAnon"), most: megabytes("VmHWM") }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).expect("the process lives")
    }
}

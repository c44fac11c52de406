//! What a process costs, as Linux counts it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::Pid;

/// A process that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    id: u32,
}

/// Memory of a process, MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// What is resident now, mapped files included.
    pub(crate) resident: f64,
    /// The part of it that is no copy of a file, which only the process's end gives back.
    pub(crate) anonymous: f64,
    /// The most that was ever resident.
    pub(crate) peak: f64,
}

/// How often threads have gone to sleep, by thread.
#[derive(Debug)]
pub(crate) struct Sleeps(BTreeMap<OsString, u64>);

impl Sleeps {
    /// How often since then. What a thread did that has ended meanwhile is not counted.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        let of =
            |(thread, now): (&OsString, &u64)| now.saturating_sub(before.0.get(thread).copied().unwrap_or_default());
        self.0.iter().map(of).sum()
    }
}

impl Meter {
    /// Of the process with this id.
    pub(crate) fn of(id: u32) -> Self {
        Self { id }
    }

    /// Processor time that it has used, all threads, those that have ended as well.
    pub(crate) fn cpu(self) -> anyhow::Result<Duration> {
        let id = Pid::from_raw(i32::try_from(self.id)?);
        cpu(id).with_context(|| format!("the processor time of {id} cannot be read"))
    }

    /// Memory that it has.
    pub(crate) fn memory(self) -> anyhow::Result<Memory> {
        let status = self.read("status")?;
        let mib = |name: &str| Ok::<_, anyhow::Error>(number(&status, name)? as f64 / 1_024.0);
        Ok(Memory { resident: mib("VmRSS:")?, anonymous: mib("RssAnon:")?, peak: mib("VmHWM:")? })
    }

    /// Bytes that it has caused to be written to disk.
    pub(crate) fn written(self) -> anyhow::Result<u64> {
        number(&self.read("io")?, "write_bytes:")
    }

    /// How often each of its threads has gone to sleep.
    pub(crate) fn sleeps(self) -> anyhow::Result<Sleeps> {
        let tasks = self.path("task");
        let mut sleeps = BTreeMap::new();
        for task in fs::read_dir(&tasks).with_context(|| tasks.display().to_string())? {
            let task = task?;
            // It may end meanwhile.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            sleeps.insert(task.file_name(), number(&status, "voluntary_ctxt_switches:")?);
        }
        Ok(Sleeps(sleeps))
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.id))
    }

    fn read(self, name: &str) -> anyhow::Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

/// What all processors have done since the system's start, in ticks.
#[derive(Debug)]
pub(crate) struct Machine {
    all: u64,
    idle: u64,
}

impl Machine {
    /// Until now.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).context("no processors told")?;
        // Behind these: guests, who are in the first two already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { all: ticks.iter().sum(), idle: ticks.iter().skip(3).take(2).sum() })
    }

    /// The part of their time since then in which they were at work, for whomever; percent.
    pub(crate) fn busy_since(&self, before: &Self) -> f64 {
        let idle = self.idle.saturating_sub(before.idle) as f64;
        100.0 * (1.0 - idle / self.all.saturating_sub(before.all) as f64)
    }
}

/// The number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} told"))?;
    Ok(rest.split_whitespace().next().context("a number")?.parse()?)
}

#[cfg(target_os = "linux")]
fn cpu(id: Pid) -> anyhow::Result<Duration> {
    Ok(nix::time::ClockId::pid_cpu_clock_id(id)?.now()?.into())
}

#[cfg(not(target_os = "linux"))]
fn cpu(_: Pid) -> anyhow::Result<Duration> {
    anyhow::bail!("only Linux is known to tell it")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_a_process_does_is_counted() {
        let meter = Meter::of(std::process::id());
        let (cpu, sleeps) = (meter.cpu().expect("told"), meter.sleeps().expect("told"));
        let (begin, machine) = (Instant::now(), Machine::now().expect("told"));
        // A tick is 10 ms.
        while meter.cpu().expect("told") < cpu + Duration::from_millis(40) {
            assert!(begin.elapsed() < Duration::from_secs(60), "this loop costs nothing");
        }
        std::thread::sleep(Duration::from_millis(1));
        assert!(meter.sleeps().expect("told").since(&sleeps) > 0);
        let busy = Machine::now().expect("told").busy_since(&machine);
        assert!(busy > 0.0 && busy <= 100.0, "{busy} %");

        let memory = meter.memory().expect("told");
        assert!(memory.anonymous > 0.0 && memory.anonymous <= memory.resident && memory.resident <= memory.peak);
        meter.written().expect("told");
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing_that_could_be_told() {
        // Greater than any process id that Linux gives.
        let meter = Meter::of((1 << 22) + 1);
        assert!(meter.cpu().is_err() && meter.memory().is_err() && meter.sleeps().is_err());
    }
}

//! Measures the processor time that other programs use: on a busy machine, the figures are
//! unreliable.

use std::fs;

/// Processor time in ticks, since the start of the machine and of this process.
pub(crate) struct CpuTime {
    /// The time of all processors, including idle time.
    total: u64,
    busy: u64,
    /// The busy time of this process and of its children that have exited.
    own: u64,
}

impl CpuTime {
    /// Reads the times, or returns `None` if the system does not have them.
    pub(crate) fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let words = machine.lines().next()?.split_whitespace().skip(1);
        let machine: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let [
            user,
            nice,
            system,
            _idle,
            _iowait,
            _irq,
            _softirq,
            steal,
            ..,
        ] = machine[..]
        else {
            return None;
        };
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        // The process name comes first, and may contain any character.
        let (_, words) = process.rsplit_once(") ")?;
        let own = words.split(' ').skip(11).take(4);
        Some(Self {
            total: machine[..8].iter().sum(),
            // Without interrupts, most of which come from this program's own network traffic.
            busy: user + nice + system + steal,
            own: own.map_while(|word| word.parse::<u64>().ok()).sum(),
        })
    }

    /// Returns the share of the processors' time since then that other programs have used.
    pub(crate) fn share_of_others(&self) -> Option<f64> {
        let now = Self::now()?;
        let own = now.own - self.own;
        let others = (now.busy - self.busy).saturating_sub(own);
        Some(others as f64 / (now.total - self.total).max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_others_is_a_fraction() {
        let start = CpuTime::now().expect("Linux has the times");
        let share = start.share_of_others().expect("Linux has the times");
        assert!((0.0..=1.0).contains(&share));
    }
}

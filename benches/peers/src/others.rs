//! What other programs do meanwhile: figures are as good as the machine is quiet.

use std::fs;

/// Processors' time since the machine began, and since this process did, in ticks.
pub(crate) struct Ticks {
    all: u64,
    busy: u64,
    /// With the children that have ended.
    ours: u64,
}

impl Ticks {
    /// None where the system does not tell.
    pub(crate) fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let words = machine.lines().next()?.split_whitespace().skip(1);
        let machine: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let [user, nice, system, _idle, _wait, _irq, _softirq, steal, ..] = machine[..] else {
            return None;
        };
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        // The name before it may have any character in it.
        let (_, words) = process.rsplit_once(") ")?;
        let ours = words.split(' ').skip(11).take(4);
        Some(Self {
            all: machine[..8].iter().sum(),
            // Interrupts are left out: those of the network between us are nobody else's.
            busy: user + nice + system + steal,
            ours: ours.map_while(|word| word.parse::<u64>().ok()).sum(),
        })
    }

    /// Which part of the processors' time others have taken since then.
    pub(crate) fn taken_by_others(&self) -> Option<f64> {
        let now = Self::now()?;
        let ours = now.ours - self.ours;
        let others = (now.busy - self.busy).saturating_sub(ours);
        Some(others as f64 / (now.all - self.all).max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_part() {
        let ticks = Ticks::now().expect("Linux tells");
        let taken = ticks.taken_by_others().expect("Linux tells");
        assert!((0.0..=1.0).contains(&taken));
    }
}

//! Free page hinting: the host asks, by a number, and the guest tells which pages are free until it says stop.
//!
//! ```text
//! host                                      guest
//! number in the configuration space = 7
//!                                           sends 7; then its free pages, as buffers to be written
//! takes them away
//!                                           sends 0: that is all. Keeps the pages to itself
//! number = 1
//!                                           uses the pages again
//! ```

/// The guest has no more.
const STOP: u32 = 0;
/// The host has done with the pages.
const DONE: u32 = 1;

/// Where a run of hinting is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hinting {
    /// What the host asks for: the number of a run, or 0 or 1 if it asks for none.
    pub host: u32,
    /// What the guest last answered to.
    pub guest: Option<u32>,
    /// The host is done as soon as the guest is.
    acknowledge_on_stop: bool,
    /// The number of the latest run.
    latest: u32,
}

impl Hinting {
    /// Begins another run.
    pub(super) fn start(&mut self, acknowledge_on_stop: bool) {
        self.latest = self.latest.checked_add(1).unwrap_or(0).max(DONE + 1);
        self.host = self.latest;
        self.acknowledge_on_stop = acknowledge_on_stop;
    }

    /// Lets the guest have its pages.
    pub(super) fn stop(&mut self) {
        self.host = DONE;
    }

    /// The guest says which run it is at, or that it has no more. Says whether the host's number has changed.
    pub(super) fn answered(&mut self, number: u32) -> bool {
        let runs = self.takes_hints();
        self.guest = Some(number);
        if number == STOP && runs && self.acknowledge_on_stop {
            self.host = DONE;
            return true;
        }
        false
    }

    /// Whether what the guest hints at belongs to the run that the host asked for.
    pub(super) fn takes_hints(&self) -> bool {
        self.host > DONE && self.guest == Some(self.host)
    }

    /// Forgets the driver.
    pub(super) fn reset(&mut self) {
        self.host = STOP;
        self.guest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_count_from_the_answer_to_the_stop() {
        let mut hinting = Hinting::default();

        hinting.start(true);
        assert!(!hinting.takes_hints());
        assert!(!hinting.answered(hinting.host));
        assert!(hinting.takes_hints());
        assert!(hinting.answered(STOP));

        assert!(!hinting.takes_hints());
        assert_eq!((hinting.host, hinting.guest), (DONE, Some(STOP)));
    }

    #[test]
    fn the_pages_stay_the_hosts_if_it_wants() {
        let mut hinting = Hinting::default();

        hinting.start(false);
        hinting.answered(hinting.host);
        assert!(!hinting.answered(STOP));
        assert_ne!(hinting.host, DONE);
        hinting.stop();

        assert_eq!(hinting.host, DONE);
    }

    #[test]
    fn an_answer_to_an_earlier_run_does_not_count() {
        let mut hinting = Hinting { latest: u32::MAX, ..Hinting::default() };

        hinting.start(true);
        assert_eq!(hinting.host, 2);
        hinting.start(true);
        hinting.answered(2);

        assert!(!hinting.takes_hints());
        assert!(!hinting.answered(STOP));
        assert_eq!(hinting.host, 3);
    }
}

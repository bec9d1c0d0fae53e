//! Asking the subscribers which pages were used.

use std::panic::resume_unwind;

use crate::{AddressRange, Subscriber, Subscriptions, entry::Called};

impl Subscriptions {
    /// Whether a subscriber used a page of `range` since last asked; all forget it, also in their caches.
    #[must_use = "the subscribers have forgotten it now"]
    pub fn clear_flush_young(&self, range: AddressRange) -> bool {
        self.ask_all(|subscriber| subscriber.clear_flush_young(range))
    }

    /// Whether a subscriber used a page of `range` since last asked; all forget it, but their caches may not.
    #[must_use = "the subscribers have forgotten it now"]
    pub fn clear_young(&self, range: AddressRange) -> bool {
        self.ask_all(|subscriber| subscriber.clear_young(range))
    }

    /// Whether a subscriber used the page at `address` since that was last cleared. The first yes is the answer.
    #[must_use]
    pub fn test_young(&self, address: u64) -> bool {
        self.ask(|subscriber| subscriber.test_young(address)).any(|young| young)
    }

    fn ask_all(&self, question: impl Fn(&dyn Subscriber) -> bool) -> bool {
        self.ask(question).fold(false, |any, young| any | young)
    }

    /// The answer of each subscriber, asked when the iterator gets there. A panic of one goes on at once: there is
    /// no end that anybody would miss.
    fn ask(&self, question: impl Fn(&dyn Subscriber) -> bool) -> impl Iterator<Item = bool> {
        let reading = self.shared().rcu.read();
        let mut next = 0;
        std::iter::from_fn(move || {
            loop {
                let range = reading.get()?.ranges.get(next)?;
                next += 1;
                match range.entry.call(reading.slot(), |subscriber| question(subscriber)) {
                    Called::Closed => {}
                    Called::Returned(young) => return Some(young),
                    Called::Panicked(panic) => resume_unwind(panic),
                }
            }
        })
    }
}

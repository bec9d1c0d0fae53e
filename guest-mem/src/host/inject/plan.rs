//! What a test has armed.

use std::io;

use mmu_notifier::sync::{Arc, Mutex, lock};

use super::{Injector, Operation};

/// The failures that are armed, and what was called so far.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A leaf of the lock order: held for arithmetic only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<(Operation, u64)>,
    armed: Vec<Armed>,
    random: Option<RandomPlan>,
    injected: u64,
}

/// One call that is to fail.
#[derive(Debug)]
struct Armed {
    operation: Operation,
    /// The number of the call, counted from the first that was ever made, which is 1.
    call: u64,
    errno: i32,
}

/// Calls that fail by chance, with an error that their operation documents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RandomPlan {
    /// The nth call of an operation fares the same with the same seed, whatever other operations are called.
    pub(crate) seed: u64,
    /// One call in so many fails; with 1 every call does.
    pub(crate) one_in: u64,
    /// Those that may fail.
    pub(crate) operations: &'static [Operation],
}

impl Injector {
    /// An injector to arm.
    #[must_use]
    pub(crate) fn armable() -> Self {
        Self { plan: Some(Arc::default()) }
    }

    /// Makes the `nth` call of `operation` from now on fail with `errno`, once; the next call is the 1st.
    ///
    /// # Panics
    /// If this is [`Injector::none`]: the test would show nothing.
    pub(crate) fn fail_nth(&self, operation: Operation, nth: u64, errno: i32) {
        self.change(|state| {
            let call = state.calls_of(operation) + nth;
            state.armed.push(Armed { operation, call, errno });
        });
    }

    /// Makes calls fail by chance as `plan` says, until another plan comes; [`Self::fail_nth`] goes first.
    ///
    /// # Panics
    /// As [`Self::fail_nth`].
    pub(crate) fn fail_randomly(&self, plan: RandomPlan) {
        self.change(|state| state.random = Some(plan));
    }

    /// Lets every call through from now on.
    pub(crate) fn disarm(&self) {
        self.change(|state| {
            state.armed.clear();
            state.random = None;
        });
    }

    /// How many calls of `operation` were made or failed so far.
    #[must_use]
    pub(crate) fn calls(&self, operation: Operation) -> u64 {
        self.change(|state| state.calls_of(operation))
    }

    /// How many calls were made to fail so far.
    #[must_use]
    pub(crate) fn injected(&self) -> u64 {
        self.change(|state| state.injected)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let Some(plan) = &self.plan else {
            panic!("this injector lets every call through: make it by Injector::armable");
        };
        change(&mut lock(&plan.state))
    }
}

impl Plan {
    /// Counts a call of `operation`, and fails it if its turn has come.
    pub(super) fn check(&self, operation: Operation) -> io::Result<()> {
        match lock(&self.state).call(operation) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl State {
    fn calls_of(&self, operation: Operation) -> u64 {
        self.calls.iter().find(|&&(of, _)| of == operation).map_or(0, |&(_, calls)| calls)
    }

    fn call(&mut self, operation: Operation) -> Option<i32> {
        let call = self.calls_of(operation) + 1;
        self.calls.retain(|&(of, _)| of != operation);
        self.calls.push((operation, call));

        let is_due = |armed: &Armed| armed.operation == operation && armed.call == call;
        let errno = match self.armed.iter().position(is_due) {
            Some(at) => Some(self.armed.swap_remove(at).errno),
            None => self.random.and_then(|plan| plan.draw(operation, call)),
        };
        self.injected += u64::from(errno.is_some());
        errno
    }
}

impl RandomPlan {
    fn draw(&self, operation: Operation, call: u64) -> Option<i32> {
        if !self.operations.contains(&operation) {
            return None;
        }
        let random = mix(self.seed ^ mix((operation as u64) << 48 ^ call));
        let errnos = operation.errnos();
        // Two draws: the low half says whether, the high half which.
        let fails = (random & u64::from(u32::MAX)).checked_rem(self.one_in)? == 0;
        let which = usize::try_from(random >> 32).ok()?.checked_rem(errnos.len())?;
        fails.then(|| errnos[which])
    }
}

/// A number in which every bit depends on every bit of `value`: the finalizer of SplitMix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

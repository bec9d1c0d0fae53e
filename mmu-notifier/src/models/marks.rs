//! In-flight marks where the first block of slots is full.

use std::sync::Arc;

use super::{Memory, model};
use crate::{planted::Bug, rcu::Rcu, sync::thread};

/// Two operations that nobody was told of both need a further block, while a registration publishes, looks for them,
/// and waits for those that it found. Behind that nothing unannounced goes on.
///
/// Bound: 3 threads, one registration, 2 operations, a full block of 2 slots; 3 forced switches.
fn two_chain_a_block(planted: Option<Bug>) {
    model(planted, || {
        let list = Arc::new(Rcu::new());
        let full = [list.read(), list.read()];
        let page = Arc::new(Memory::default());
        let operations = [(); 2].map(|()| {
            let (list, page) = (list.clone(), page.clone());
            thread::spawn(move || {
                let reading = list.read();
                if reading.get().is_none() {
                    page.use_it();
                }
            })
        });

        let replacement = list.replace(Some(()));
        drop(full);
        for operation in replacement.in_flight {
            list.marks.wait(operation);
        }
        page.free();

        for operation in operations {
            operation.join().unwrap();
        }
    });
}

#[test]
fn a_chained_block_is_found() {
    two_chain_a_block(None);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_relaxed_chaining_is_caught() {
    two_chain_a_block(Some(Bug::ChainRelaxed));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_overwriting_of_a_chained_block_is_caught() {
    two_chain_a_block(Some(Bug::ChainOverwrites));
}

//! References against freezing, and against the last of them.

use std::sync::Arc;

use mmu_notifier::sync::{
    atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use super::{Bug, Content, model};
use crate::{PageSize, folio::FrameTable};

/// A table whose frame 0 has one reference, which a page-table entry owns, and what the frame holds.
fn mapped_frame() -> Arc<(FrameTable, Content)> {
    let frame = Arc::new((FrameTable::new(512), Content::new()));
    frame.0.claim(0, PageSize::Base).unwrap().unfreeze(1).leak();
    frame
}

/// A reader takes a reference if it can, and uses the frame. A remover frees the frame if it can freeze it.
fn get_and_freeze(readers: usize, planted: Option<Bug>) {
    model(planted, move || {
        let frame = mapped_frame();
        let reading = |_| {
            let frame = frame.clone();
            thread::spawn(move || {
                let (table, content) = &*frame;
                if let Some(folio) = table.try_get(0, PageSize::Base) {
                    content.use_it();
                    drop(folio);
                }
            })
        };
        let readers: Vec<_> = (0..readers).map(reading).collect();
        let (table, content) = &*frame;
        let entry = table.borrow(0, PageSize::Base).unwrap();
        match entry.adopt().freeze(1) {
            Ok(exclusive) => {
                content.overwrite();
                exclusive.free();
            }
            Err(reference) => {
                reference.leak();
            }
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(entry.references() <= 1, "what was taken was given back");
    });
}

#[test]
fn a_frozen_folio_is_nobody_elses() {
    get_and_freeze(1, None);
}

#[test]
fn a_frozen_folio_is_nobody_elses_among_two_readers() {
    get_and_freeze(2, None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_reference_from_zero_is_caught() {
    get_and_freeze(1, Some(Bug::GetFromZero));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_freezing_in_two_steps_is_caught() {
    get_and_freeze(1, Some(Bug::FreezeInTwoSteps));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_relaxed_put_before_freezing_is_caught() {
    get_and_freeze(1, Some(Bug::RelaxedPut));
}

/// Two threads use a frame and give their references back: the last of them frees it, alone.
fn last_put(planted: Option<Bug>) {
    model(planted, || {
        let freed = Arc::new((Content::new(), AtomicU32::new(0)));
        let table = Arc::new(FrameTable::with_release(512, {
            let freed = freed.clone();
            move |folio| {
                freed.0.overwrite();
                freed.1.fetch_add(1, Relaxed);
                folio.free();
            }
        }));
        table.claim(0, PageSize::Base).unwrap().unfreeze(2).leak();
        let user = |table: &FrameTable, content: &Content| {
            let folio = table.borrow(0, PageSize::Base).unwrap().adopt();
            content.use_it();
            drop(folio);
        };
        let other = thread::spawn({
            let (table, freed) = (table.clone(), freed.clone());
            move || user(&table, &freed.0)
        });
        user(&table, &freed.0);
        other.join().unwrap();
        assert_eq!(freed.1.load(Relaxed), 1, "freed once");
        assert!(table.claim(0, PageSize::Base).is_ok());
    });
}

#[test]
fn the_last_reference_frees_alone() {
    last_put(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_relaxed_last_put_is_caught() {
    last_put(Some(Bug::RelaxedPut));
}

/// The three steps of a reader against those of a remover that has the frame in use again at once, for something else.
#[test]
fn whoever_looks_again_never_uses_a_frame_that_was_reused() {
    model(None, || {
        let frame = mapped_frame();
        let entry = Arc::new(AtomicU32::new(1));
        let reader = thread::spawn({
            let (frame, entry) = (frame.clone(), entry.clone());
            move || {
                let (table, content) = &*frame;
                if entry.load(Relaxed) == 1
                    && let Some(folio) = table.try_get(0, PageSize::Base)
                {
                    // Relaxed: `try_get` has seen what was done before the count that it found.
                    if entry.load(Relaxed) == 1 {
                        content.use_it();
                    }
                    drop(folio);
                }
            }
        });
        let (table, content) = &*frame;
        match table.borrow(0, PageSize::Base).unwrap().adopt().freeze(1) {
            Ok(exclusive) => {
                entry.store(0, Relaxed);
                exclusive.free();
                let again = table.claim(0, PageSize::Base).unwrap().unfreeze(1);
                content.overwrite();
                again.leak();
            }
            Err(reference) => {
                reference.leak();
            }
        }
        reader.join().unwrap();
    });
}

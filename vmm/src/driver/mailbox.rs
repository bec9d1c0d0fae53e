//! A vCPU's mailbox: a page in which it finds its command and leaves what came of it.

use vm_memory::{Bytes, GuestAddress};

use super::Permutation;

/// How many bytes a mailbox has: one page of its own, so that vCPUs do not share cache lines.
pub const MAILBOX_SIZE: u64 = 4096;

const OUTCOME: u64 = 0x100;
/// Behind the time stamp of the first instruction, which stays: what each command starts from zero.
const FRESH: u64 = OUTCOME + 8;

/// What the guest does with an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Op {
    /// Nothing: it only rings the doorbell.
    #[default]
    Hello,
    /// Touches one word and times it.
    Touch,
    /// Writes [`pattern()`](super::pattern()) to one word.
    Fill,
    /// Compares one word with [`pattern()`](super::pattern()).
    Verify,
}

/// How a word is touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Its own address is stored there.
    #[default]
    Write,
    /// It is loaded.
    Read,
    /// It is loaded and stored back, within one pair of time stamps.
    ReadWrite,
    /// It is left alone: what a pair of time stamps costs by itself.
    Nothing,
}

/// What the guest keeps of a touch's duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Only the longest of all.
    #[default]
    Nothing,
    /// Each, as a [`TimedTouch`], in the order of the touches.
    Samples,
    /// A [`Histogram`](super::Histogram) of all.
    Histogram,
}

/// One timed touch, as the guest records it: two 64-bit numbers of its own counter, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedTouch {
    /// When it began.
    pub start: u64,
    /// How long it took, the time stamps' own cost included.
    pub ticks: u64,
}

/// One piece of work for one vCPU. Addresses are guest-physical, which is guest-virtual here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// What is done.
    pub op: Op,
    /// The address of index 0.
    pub base: u64,
    /// How many indices a pass has.
    pub count: u64,
    /// How many bytes lie between an index and the next, at least 8.
    pub stride: u64,
    /// How often the pass is made; zero counts as one. Only [`Op::Touch`] has more than one.
    pub passes: u64,
    /// The order of the indices; ascending if there is none. Only for [`Op::Touch`].
    pub permutation: Option<Permutation>,
    /// How a word is touched.
    pub access: Access,
    /// What is recorded.
    pub record: Record,
    /// Where it is recorded.
    pub records: u64,
    /// The word on which vCPUs wait for each other before they start.
    pub barrier: u64,
    /// The value of that word at which they do.
    pub barrier_target: u64,
    /// Where a store ends the command.
    pub doorbell: u64,
    /// Selects the pattern of fill and verify.
    pub seed: u64,
}

/// What the guest left in its mailbox. Time stamps are of the guest's counter, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When the guest's very first instruction ran.
    pub first_tsc: u64,
    /// When all vCPUs had arrived at the barrier.
    pub start_tsc: u64,
    /// When the last index was done.
    pub end_tsc: u64,
    /// How many indices were done, over all passes.
    pub touches: u64,
    /// The longest touch, in ticks.
    pub max: u64,
    /// How many words differed from the pattern.
    pub mismatches: u64,
    /// Where the first of them lies.
    pub first_mismatch: u64,
}

impl Command {
    /// Writes the command into the mailbox at `mailbox` and clears what the last one left there.
    ///
    /// # Errors
    /// The memory's own error when the mailbox is not all there.
    pub fn post<M: Bytes<GuestAddress>>(&self, memory: &M, mailbox: u64) -> Result<(), M::E> {
        write_words(memory, mailbox + FRESH, &[0; 6])?;
        write_words(memory, mailbox, &self.words())
    }

    /// In the order of the offsets in `fault_driver.s`.
    fn words(&self) -> [u64; 17] {
        let order = self.permutation.as_ref();
        [
            match self.op {
                Op::Hello => 0,
                Op::Touch => 1,
                Op::Fill => 2,
                Op::Verify => 3,
            },
            self.base,
            self.count,
            self.stride,
            self.passes.max(1),
            match self.access {
                Access::Write => 0,
                Access::Read => 1,
                Access::ReadWrite => 2,
                Access::Nothing => 3,
            },
            match self.record {
                Record::Nothing => 0,
                Record::Samples => 1,
                Record::Histogram => 2,
            },
            self.records,
            self.barrier,
            self.barrier_target,
            self.doorbell,
            self.seed,
            order.map_or(0, |order| order.mask),
            order.map_or(0, |order| order.shift),
            order.map_or(0, |order| order.mul1),
            order.map_or(0, |order| order.mul2),
            order.map_or(0, |order| order.add),
        ]
    }
}

impl TimedTouch {
    /// How many bytes a sample has in the guest's memory.
    pub const BYTES: u64 = size_of::<Self>() as u64;
    /// What no touch leaves: so marked, a place that the guest did not write to is told from one that it did.
    const MISSING: u8 = 0xff;

    /// The bytes of `count` places that the guest has not written to.
    pub(crate) fn none(count: usize) -> Vec<u8> {
        vec![Self::MISSING; count * size_of::<Self>()]
    }

    /// The samples that the guest wrote to these bytes since they were [`none`](Self::none).
    pub(crate) fn read(bytes: &[u8]) -> Vec<Self> {
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let words: Vec<u64> = words.collect();
        let samples = words.as_chunks::<2>().0.iter().map(|&[start, ticks]| Self { start, ticks });
        samples.filter(|sample| sample.ticks != u64::MAX).collect()
    }

    /// When it ended.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.wrapping_add(self.ticks)
    }
}

impl Outcome {
    /// Reads what the guest left in the mailbox at `mailbox`.
    ///
    /// # Errors
    /// The memory's own error when the mailbox is not all there.
    pub fn read<M: Bytes<GuestAddress>>(memory: &M, mailbox: u64) -> Result<Self, M::E> {
        let mut bytes = [0; 56];
        memory.read_slice(&mut bytes, GuestAddress(mailbox + OUTCOME))?;
        let [first_tsc, start_tsc, end_tsc, touches, max, mismatches, first_mismatch] =
            std::array::from_fn(|index| {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[index * 8..][..8]);
                u64::from_le_bytes(word)
            });
        Ok(Self { first_tsc, start_tsc, end_tsc, touches, max, mismatches, first_mismatch })
    }
}

fn write_words<M: Bytes<GuestAddress>>(memory: &M, address: u64, words: &[u64]) -> Result<(), M::E> {
    for (word, place) in words.iter().zip((address..).step_by(8)) {
        memory.write_slice(&word.to_le_bytes(), GuestAddress(place))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    /// The offset that the guest's source gives a field.
    fn offset(name: &str) -> u64 {
        let source = include_str!("../../../resources/guest/fault_driver.s");
        let line = source.lines().find(|line| line.contains(&format!(".set UL_{name},"))).unwrap();
        let digits = line.rsplit("0x").next().unwrap();
        u64::from_str_radix(digits.trim(), 16).unwrap()
    }

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap()
    }

    #[test]
    fn every_field_of_a_command_lies_where_the_guest_looks() {
        let memory = memory();
        let order = Permutation { count: 0, mask: 50, shift: 51, mul1: 52, mul2: 53, add: 54 };
        let command = Command {
            op: Op::Verify,
            base: 10,
            count: 11,
            stride: 12,
            passes: 13,
            permutation: Some(order),
            access: Access::ReadWrite,
            record: Record::Samples,
            records: 14,
            barrier: 15,
            barrier_target: 16,
            doorbell: 17,
            seed: 18,
        };

        command.post(&memory, 0).unwrap();

        let at = |name: &str| memory.read_obj::<u64>(GuestAddress(offset(name))).unwrap();
        assert_eq!((at("OP"), at("BASE"), at("COUNT"), at("STRIDE")), (3, 10, 11, 12));
        assert_eq!((at("PASSES"), at("ACCESS"), at("RECORD"), at("RECORDS")), (13, 2, 1, 14));
        assert_eq!((at("BARRIER"), at("BARRIER_TARGET"), at("DOORBELL"), at("SEED")), (15, 16, 17, 18));
        assert_eq!((at("PERM_MASK"), at("PERM_SHIFT"), at("PERM_MUL1")), (50, 51, 52));
        assert_eq!((at("PERM_MUL2"), at("PERM_ADD")), (53, 54));
    }

    #[test]
    fn every_field_of_an_outcome_is_read_from_where_the_guest_writes() {
        let memory = memory();
        let names = ["FIRST_TSC", "START_TSC", "END_TSC", "TOUCHES", "MAX", "MISMATCHES", "FIRST_MISMATCH"];
        for (name, value) in names.into_iter().zip(1_u64..) {
            memory.write_obj(value, GuestAddress(offset(name))).unwrap();
        }

        let outcome = Outcome::read(&memory, 0).unwrap();

        let expected = Outcome {
            first_tsc: 1,
            start_tsc: 2,
            end_tsc: 3,
            touches: 4,
            max: 5,
            mismatches: 6,
            first_mismatch: 7,
        };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn a_new_command_clears_the_last_outcome_but_the_first_instruction() {
        let memory = memory();
        memory.write_slice(&[0xff; 56], GuestAddress(offset("FIRST_TSC"))).unwrap();

        Command::default().post(&memory, 0).unwrap();

        let outcome = Outcome::read(&memory, 0).unwrap();
        assert_eq!(outcome, Outcome { first_tsc: u64::MAX, ..Outcome::default() });
    }
}

use proptest::prelude::*;

use super::*;

fn plan(pages: u64, vcpus: u32, pattern: Pattern) -> Plan {
    Plan { vcpus, pattern, ..Plan::new(ByteSize::new(pages * PAGE).unwrap()) }
}

fn addresses(plan: &Plan) -> Vec<u64> {
    let shares = (0..plan.vcpus).map(|id| plan.share(id));
    shares.flat_map(|share| (0..share.count).map(move |order| share.address(order))).collect()
}

proptest! {
    #[test]
    fn every_page_is_touched_first_exactly_once(pages in 1_u64..600, vcpus in 1_u32..9, random: bool, seed: u64) {
        let pattern = if random { Pattern::Random } else { Pattern::Sequential };
        let plan = Plan { seed, ..plan(pages.max(vcpus.into()), vcpus, pattern) };

        let mut seen = addresses(&plan);
        seen.sort_unstable();

        let expected: Vec<_> = (0..plan.mem.bytes() / PAGE).map(|page| RAM_BASE + page * PAGE).collect();
        prop_assert_eq!(plan.touches(), expected.len() as u64);
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn touched_bytes_are_the_pages_with_a_touch(pages in 1_u64..64, stride in 1_u64..2048) {
        let plan = plan(pages, 1, Pattern::Stride(stride * WORD));

        let mut touched: Vec<_> = addresses(&plan).iter().map(|address| address / PAGE).collect();
        touched.dedup();

        prop_assert_eq!(plan.touched_bytes(), touched.len() as u64 * PAGE);
    }

    #[test]
    fn patterns_survive_their_names(stride in 1_u64..1 << 40) {
        let pattern = Pattern::Stride(stride * WORD);

        prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }
}

#[test]
fn with_overlap_everybody_touches_everything() {
    let plan = Plan { overlap: true, ..plan(16, 4, Pattern::Sequential) };

    assert_eq!(plan.touches(), 64);
    assert_eq!(plan.share(3), plan.share(0));
}

#[test]
fn what_leaves_a_vcpu_idle_is_refused() {
    let stride = plan(1, 1, Pattern::Stride(8192)).check();
    let vcpus = plan(3, 4, Pattern::Sequential).check();

    assert_eq!(stride, Err(PlanError::StrideTooLarge { stride: 8192, mem: 4096 }));
    assert_eq!(vcpus, Err(PlanError::TooManyVcpus { vcpus: 4, touches: 3 }));
    assert_eq!(Plan { overlap: true, ..plan(3, 4, Pattern::Sequential) }.check(), Ok(()));
}

#[test]
fn ram_is_whole_pages_that_one_slot_holds() {
    let check = |bytes| Plan::check_mem(ByteSize::new(bytes).unwrap());
    let beyond = |mem| Err(PlanError::BeyondSlot { mem });

    assert_eq!(check(SLOT_LIMIT), Ok(()));
    assert_eq!(check(SLOT_LIMIT + PAGE), beyond(SLOT_LIMIT + PAGE));
    assert_eq!(check(u64::MAX), beyond(u64::MAX));
    assert_eq!(check(3000), Err(PlanError::UnalignedSize { mem: 3000 }));
    assert_eq!(Plan::new(ByteSize::new(6000).unwrap()).check(), Err(PlanError::UnalignedSize { mem: 6000 }));
}

#[test]
fn bad_patterns_and_accesses_say_what_would_be_good() {
    let error = |text: &str| text.parse::<Pattern>().unwrap_err().to_string();

    assert!(error("zigzag").contains("sequential, random or stride:BYTES"));
    assert!(error("stride:x").contains("`x` is no stride"));
    assert!(error("stride:12").contains("multiple of 8"));
    assert_eq!(parse_access("read-write"), Ok(Access::ReadWrite));
    assert!(parse_access("w").unwrap_err().to_string().contains("write, read or read-write"));
}

//! Documents that nobody wrote: each is read, or told what is wrong with it, in its own lines.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;

/// Names that mean something somewhere, and some that do not.
const NAMES: &[&str] = &[
    "boot-source",
    "kernel_image_path",
    "boot_args",
    "drives",
    "drive_id",
    "is_root_device",
    "path_on_host",
    "machine-config",
    "vcpu_count",
    "mem_size_mib",
    "huge_pages",
    "backing",
    "balloon",
    "amount_mib",
    "deflate_on_oom",
    "network-interfaces",
    "iface_id",
    "guest_mac",
    "rx_rate_limiter",
    "vsock",
    "pmem",
    "logger",
    "level",
    "a\"b",
    "",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u8..4).prop_map(Value::from),
        prop::sample::select(NAMES).prop_map(Value::from),
        Just(json!("2M")),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        let field = (prop::sample::select(NAMES).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(field, 0..6).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Whether it is read, or has mistakes that lie within it.
fn is_understood(text: &str) -> bool {
    match read(text) {
        Ok(_) => true,
        Err(mistakes) => {
            let lines = text.matches('\n').count() + 1;
            !mistakes.is_empty() && mistakes.iter().all(|mistake| (1..=lines).contains(&mistake.line))
        }
    }
}

proptest! {
    #[test]
    fn any_document_is_understood(document in value()) {
        prop_assert!(is_understood(&serde_json::to_string_pretty(&document).unwrap()));
    }

    #[test]
    fn any_text_is_understood(text in "[\\[\\]{}:,\"a-z0-9 \n]{0,60}") {
        prop_assert!(is_understood(&text));
    }
}

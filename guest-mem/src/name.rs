//! The name that a piece of guest RAM carries in /proc/PID/maps.

use std::ffi::{CStr, CString};

/// How much of a VM's name is kept, and of a region's: with the prefix and the colon at most 79 bytes, which is what
/// `PR_SET_VMA_ANON_NAME` takes besides the final NUL (a memfd would take 249).
const GUEST_MAX: usize = 44;
const REGION_MAX: usize = 24;

/// `underlay:GUEST:REGION`: what a mapping or memfd is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappingName(CString);

impl MappingName {
    /// The name for `region` of `guest`.
    ///
    /// Every character that is not an ASCII letter, digit, `.`, `_` or `-` becomes `_`, so that the kernel takes the
    /// name, the maps file keeps its columns, and the colons keep the parts apart. What is too long is cut off.
    pub(crate) fn new(guest: &str, region: &str) -> Self {
        let guest = sanitised(guest, GUEST_MAX);
        let region = sanitised(region, REGION_MAX);
        // Sanitised text holds no NUL, so the default is never taken.
        Self(CString::new(format!("underlay:{guest}:{region}")).unwrap_or_default())
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

fn sanitised(text: &str, max: usize) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let safe = text.chars().map(|c| if kept(c) { c } else { '_' });
    safe.take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(guest: &str, region: &str) -> String {
        MappingName::new(guest, region).as_c_str().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_plain_name_is_kept() {
        assert_eq!(name("web-1.a", "ram_0"), "underlay:web-1.a:ram_0");
    }

    #[test]
    fn what_would_confuse_the_maps_file_is_replaced() {
        assert_eq!(name("a b:[c]\n", "é\0$"), "underlay:a_b__c__:___");
    }

    proptest! {
        #[test]
        fn every_name_fits_and_has_three_parts(guest in any::<String>(), region in any::<String>()) {
            let name = name(&guest, &region);
            prop_assert!(name.len() < 80);
            prop_assert_eq!(name.split(':').count(), 3);
        }
    }
}

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

// What `code` returns, packed as Linux's build packs a kernel, by the programs that it uses: `gzip -n -9`,
// `xz --check=crc32 --x86 --lzma2=dict=32MiB`, `lzma -9`, `zstd -22 --ultra` and `lz4 -l -9`; the size is appended but to
// gzip's.
const GZIP: &[u8] = include_bytes!("code.gz");
const XZ: &[u8] = include_bytes!("code.xz");
const LZMA: &[u8] = include_bytes!("code.lzma");
const ZSTD: &[u8] = include_bytes!("code.zst");
const LZ4: &[u8] = include_bytes!("code.lz4");
const ALL: [&[u8]; 5] = [GZIP, XZ, LZMA, ZSTD, LZ4];

/// Where it is in the file of these tests.
const OFFSET: u64 = 100;
const MOST: u64 = 4096;

/// Calls of one function from everywhere: what the filter for x86 that xz has here changes.
fn code() -> Vec<u8> {
    (0..64_i32).flat_map(|call| [&[0xe8][..], &(0x1000 - 5 * call).to_le_bytes(), &[0x90]].concat()).collect()
}

fn unpack(packed: &[u8], most: u64) -> Result<Option<Vec<u8>>, ImageError> {
    let len = packed.len() as u64;
    let mut file = vec![7; usize::try_from(OFFSET).unwrap()];
    file.extend(packed);
    file.extend([7; 100]);
    Payload { offset: OFFSET, len, most }.unpack(&mut Cursor::new(file))
}

#[track_caller]
fn refusal(packed: &[u8], most: u64) -> String {
    let error = unpack(packed, most).unwrap_err();
    format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
}

/// `packed` with another size at its end.
fn with_size(packed: &[u8], size: u32) -> Vec<u8> {
    [&packed[..packed.len() - 4], &size.to_le_bytes()].concat()
}

#[test]
fn what_linux_packs_is_unpacked() {
    for packed in ALL {
        assert_eq!(unpack(packed, MOST).unwrap().unwrap(), code());
    }
}

#[test]
fn what_is_packed_in_another_way_is_left_alone() {
    for packed in [b"BZh91AY&SY and so on", &b"\x89LZO\0\r\n\x1a\n and so on"[..], b"short"] {
        assert_eq!(unpack(packed, MOST).unwrap(), None);
    }
}

#[test]
fn a_kernel_larger_than_its_header_allows_is_not_begun() {
    let exact = code().len() as u64;

    for packed in ALL {
        assert!(unpack(packed, exact).is_ok());
        assert!(refusal(packed, exact - 1).contains("is larger than it may be"));
        assert!(refusal(&with_size(packed, u32::MAX), MOST).contains("is larger than it may be"));
    }
}

#[test]
fn a_size_that_is_not_true_is_told() {
    let size = u32::try_from(code().len()).unwrap();

    for packed in ALL {
        assert!(refusal(&with_size(packed, size + 1), MOST).contains("is damaged; copy or build it again"));
        assert!(refusal(&with_size(packed, size - 1), MOST).contains("is damaged"));
    }
}

#[test]
fn a_compressor_that_says_what_is_wrong_is_quoted() {
    let mut packed = XZ.to_vec();
    packed[60] ^= 1;

    let text = refusal(&packed, MOST);

    assert!(text.starts_with("the kernel packed in it, by xz, is damaged"), "{text}");
    assert!(!text.ends_with(": "), "{text}");
}

#[test]
fn a_history_that_no_kernel_needs_is_refused() {
    let mut lzma = LZMA.to_vec();
    lzma[1..5].copy_from_slice(&(1_u32 << 30).to_le_bytes());

    assert!(refusal(&lzma, MOST).contains("mem_limit"), "{}", refusal(&lzma, MOST));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is in it, it is unpacked to as many bytes as it says, or refused.
    #[test]
    fn hostile_payloads_never_panic_nor_grow(
        which in 0_usize..ALL.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        size in prop_oneof![Just(None), (0..MOST).prop_map(Some)],
    ) {
        let mut packed = ALL[which].to_vec();
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        if is_cut {
            packed.truncate(cut.index(packed.len()));
        }
        if let Some(size) = size && packed.len() >= 4 {
            packed = with_size(&packed, u32::try_from(size).unwrap());
        }

        let unpacked = unpack(&packed, MOST);

        if let Ok(Some(bytes)) = unpacked {
            prop_assert!(bytes.len() as u64 <= MOST);
        }
    }
}

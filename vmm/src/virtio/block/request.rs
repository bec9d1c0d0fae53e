//! What a driver asks of a disk.

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{
    super::buffers::{ReadBuffers, WriteBuffers},
    SECTOR,
};

/// A request whose header makes sense; whether it lies on the disk is to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Of so many bytes, from there on.
    Read {
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        len: u64,
    },
    Flush,
    /// Of the ranges that follow.
    Discard,
    WriteZeroes,
    GetId,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
    Unsupported,
}

impl Request {
    /// Reads the header off the front of `readable`; the data follow in there, or are to go to `writable`.
    pub(super) fn parse(readable: &mut ReadBuffers, writable: &WriteBuffers) -> Result<Self, Outcome> {
        let mut header = [0; 16];
        readable.read_exact(&mut header).map_err(|_| Outcome::Failed)?;
        let [kind_0, kind_1, kind_2, kind_3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([kind_0, kind_1, kind_2, kind_3]);
        let data = |len: usize| {
            let offset = u64::from_le_bytes(sector).checked_mul(SECTOR).ok_or(Outcome::Failed)?;
            let len = len as u64;
            if len.is_multiple_of(SECTOR) { Ok((offset, len)) } else { Err(Outcome::Failed) }
        };
        match kind {
            VIRTIO_BLK_T_IN => data(writable.len()).map(|(offset, len)| Self::Read { offset, len }),
            VIRTIO_BLK_T_OUT => data(readable.len()).map(|(offset, len)| Self::Write { offset, len }),
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_DISCARD => Ok(Self::Discard),
            VIRTIO_BLK_T_WRITE_ZEROES => Ok(Self::WriteZeroes),
            VIRTIO_BLK_T_GET_ID => Ok(Self::GetId),
            _ => Err(Outcome::Unsupported),
        }
    }
}

impl Outcome {
    /// What the driver reads.
    pub(super) const fn status(self) -> u8 {
        let status = match self {
            Self::Done => VIRTIO_BLK_S_OK,
            Self::Failed => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        status.to_le_bytes()[0]
    }

    /// What `result` means to the driver of disk `id`.
    pub(super) fn of(id: &str, result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Self::Unsupported,
            Err(error) => {
                log::debug!("a request to disk {id} failed: {error}");
                Self::Failed
            }
        }
    }
}

/// A range to be discarded or zeroed, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sectors {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Zeroes may be a hole.
    pub(super) unmap: bool,
}

impl Sectors {
    /// The most sectors in one range: 1 GiB, so that no request takes the device thread for long.
    pub(super) const MOST: u32 = 1 << 21;
    /// The most ranges in one request.
    pub(super) const MOST_RANGES: u32 = 16;
    /// Bytes that describe one.
    const LEN: usize = 16;

    /// The ranges that `readable` lists, and how many they are.
    pub(super) fn parse(
        readable: &mut ReadBuffers,
        zeroes: bool,
    ) -> Result<([Self; Self::MOST_RANGES as usize], usize), Outcome> {
        let mut ranges = [Self::default(); Self::MOST_RANGES as usize];
        let count = readable.len() / Self::LEN;
        if !readable.len().is_multiple_of(Self::LEN) || count == 0 || count > ranges.len() {
            return Err(Outcome::Failed);
        }
        for range in ranges.iter_mut().take(count) {
            let mut bytes = [0; Self::LEN];
            readable.read_exact(&mut bytes).map_err(|_| Outcome::Failed)?;
            *range = Self::of(bytes, zeroes)?;
        }
        Ok((ranges, count))
    }

    fn of(bytes: [u8; Self::LEN], zeroes: bool) -> Result<Self, Outcome> {
        let number = u128::from_le_bytes(bytes);
        let low = |number: u128| u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0);
        let sector = u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0);
        let (count, flags) = (low(number >> 64), low(number >> 96));
        let unmap = flags == VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        // A discard has no flags, and zeroes have one.
        if flags != 0 && !(zeroes && unmap) {
            return Err(Outcome::Unsupported);
        }
        let offset = sector.checked_mul(SECTOR).ok_or(Outcome::Failed)?;
        if count > Self::MOST {
            return Err(Outcome::Failed);
        }
        Ok(Self { offset, len: u64::from(count) * SECTOR, unmap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
        let bytes = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_range_is_sectors_and_flags() {
        assert_eq!(
            Sectors::of(range(3, 5, 0), false),
            Ok(Sectors { offset: 3 * 512, len: 5 * 512, unmap: false })
        );
        assert_eq!(Sectors::of(range(0, 1, 1), true), Ok(Sectors { offset: 0, len: 512, unmap: true }));
    }

    #[test]
    fn flags_that_nobody_knows_are_not_supported_and_sizes_have_a_limit() {
        assert_eq!(Sectors::of(range(0, 1, 1), false), Err(Outcome::Unsupported));
        assert_eq!(Sectors::of(range(0, 1, 2), true), Err(Outcome::Unsupported));
        assert_eq!(Sectors::of(range(0, Sectors::MOST + 1, 0), true), Err(Outcome::Failed));
        assert_eq!(Sectors::of(range(u64::MAX, 1, 0), true), Err(Outcome::Failed));
    }
}

//! `/network-interfaces/{iface_id}`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{RateLimiter, Refusals, Refused, check_id, rate_limiter};

/// The longest name of a network device, in bytes.
const LONGEST_DEVICE_NAME: usize = 15;

/// The body of PUT /network-interfaces/{iface_id}.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its name: that of the path.
    pub iface_id: String,
    /// The tap device.
    pub host_dev_name: String,
    /// The guest's address; the guest makes one up if there is none.
    pub guest_mac: Option<MacAddress>,
    /// Not to be had here: the longest frame that the guest is told to send.
    pub mtu: Option<u16>,
    /// Not to be had here.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Not to be had here.
    pub tx_rate_limiter: Option<RateLimiter>,
}

impl NetworkInterface {
    pub(crate) fn check(&self) -> Refusals {
        let mut wrong = Refusals::default();
        wrong.note(check_id("iface_id", &self.iface_id));
        let name = &self.host_dev_name;
        let fits = (1..=LONGEST_DEVICE_NAME).contains(&name.len())
            && !name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
        if !fits {
            let reason = format!("must be 1 to {LONGEST_DEVICE_NAME} bytes without spaces and slashes");
            wrong.add("host_dev_name", reason);
        }
        if self.guest_mac.is_some_and(MacAddress::is_group) {
            wrong.add("guest_mac", "must not be the address of a group: its first byte is odd");
        }
        if self.mtu.is_some() {
            wrong.add("mtu", "underlay does not tell the guest: set it in the guest");
        }
        wrong.note(rate_limiter::check("rx_rate_limiter", self.rx_rate_limiter.as_ref()));
        wrong.note(rate_limiter::check("tx_rate_limiter", self.tx_rate_limiter.as_ref()));
        wrong
    }
}

/// The body of PATCH /network-interfaces/{iface_id}.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// Its name: that of the path.
    pub iface_id: String,
    /// Not to be had here.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Not to be had here.
    pub tx_rate_limiter: Option<RateLimiter>,
}

impl NetworkInterfaceUpdate {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        check_id("iface_id", &self.iface_id)?;
        rate_limiter::check("rx_rate_limiter", self.rx_rate_limiter.as_ref())?;
        rate_limiter::check("tx_rate_limiter", self.tx_rate_limiter.as_ref())
    }
}

/// The address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

/// A text that is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address {0:?}: must be six bytes as in 06:00:ac:10:00:02")]
pub struct InvalidMacAddress(String);

impl MacAddress {
    /// Its bytes, in the order in which they are sent.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether it stands for many.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMacAddress(text.to_owned());
        let byte = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(text, 16).ok()).flatten()
        };
        let bytes: Vec<u8> = text.split(':').map(byte).collect::<Option<_>>().ok_or_else(invalid)?;
        bytes.try_into().map(Self).map_err(|_| invalid())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_six_bytes() {
        let mac: MacAddress = "06:00:AC:10:00:02".parse().unwrap();
        assert_eq!(mac.bytes(), [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!(mac.to_string(), "06:00:ac:10:00:02");
        for bad in [
            "",
            "06:00:ac:10:00",
            "06:00:ac:10:00:02:03",
            "06:00:ac:10:00:0g",
            "6:0:ac:10:0:2",
            "+6:00:ac:10:00:02",
        ] {
            assert_eq!(bad.parse::<MacAddress>(), Err(InvalidMacAddress(bad.to_owned())));
        }
    }
}

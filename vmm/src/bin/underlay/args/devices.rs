//! The devices of a microVM on the command line.

use clap::Parser;
use vmm::api::schema::{Balloon, CacheType, Drive, Entropy, InvalidMacAddress, MacAddress, NetworkInterface};

#[derive(Debug, Parser)]
#[command(next_help_heading = "Devices")]
pub(crate) struct DeviceArgs {
    /// A disk: a file and, behind commas, ro if the guest may only read it, and others may too, and direct if the host's
    /// page cache is to be passed by. Again for another
    #[arg(long, value_name = "FILE", value_parser = parse_disk, requires = "kernel", conflicts_with = "config_file")]
    disk: Vec<Drive>,
    /// A network interface on a tap device of the host's: tap=NAME or tap=NAME,mac=ADDRESS. Again for another
    #[arg(long, value_name = "TAP", value_parser = parse_net, requires = "kernel", conflicts_with = "config_file")]
    net: Vec<NetworkInterface>,
    /// A balloon that holds so many MiB at first and, behind commas, any of deflate-on-oom, stats=SECONDS, reporting and
    /// hinting. The API changes how much it holds
    #[arg(long, value_name = "MIB", value_parser = parse_balloon, requires = "kernel", conflicts_with = "config_file")]
    balloon: Option<Balloon>,
    /// A source of random bytes
    #[arg(long, requires = "kernel", conflicts_with = "config_file")]
    rng: bool,
}

/// Why the network interfaces do not go together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetArgsError {
    /// Two are on one tap device.
    #[error("--net has the tap device {0:?} twice: give each interface one of its own")]
    SharedTap(String),
    /// Two have one address.
    #[error("--net has the address {0} twice: give each interface one of its own, or leave mac= out")]
    SharedMac(MacAddress),
}

impl DeviceArgs {
    /// The disks, called disk0 and so on.
    pub(crate) fn drives(&self) -> Vec<Drive> {
        let drives = self.disk.iter().enumerate();
        drives.map(|(number, drive)| Drive { drive_id: format!("disk{number}"), ..drive.clone() }).collect()
    }

    /// The network interfaces, called net0 and so on.
    pub(crate) fn network_interfaces(&self) -> Result<Vec<NetworkInterface>, NetArgsError> {
        for (number, interface) in self.net.iter().enumerate() {
            let before = &self.net[..number];
            let (tap, mac) = (&interface.host_dev_name, interface.guest_mac);
            if before.iter().any(|other| other.host_dev_name == *tap) {
                return Err(NetArgsError::SharedTap(tap.clone()));
            }
            if let Some(mac) = mac
                && before.iter().any(|other| other.guest_mac == Some(mac))
            {
                return Err(NetArgsError::SharedMac(mac));
            }
        }
        let named = |(number, interface): (usize, &NetworkInterface)| NetworkInterface {
            iface_id: format!("net{number}"),
            ..interface.clone()
        };
        Ok(self.net.iter().enumerate().map(named).collect())
    }

    pub(crate) fn balloon(&self) -> Option<Balloon> {
        self.balloon.clone()
    }

    pub(crate) fn entropy(&self) -> Option<Entropy> {
        self.rng.then(Entropy::default)
    }
}

/// Reads `FILE[,ro][,direct]`; a comma that no word follows belongs to the file's name.
fn parse_disk(text: &str) -> Result<Drive, String> {
    let (mut path, mut read_only, mut direct) = (text, false, false);
    while let Some((before, word)) = path.rsplit_once(',') {
        match word {
            "ro" => read_only = true,
            "direct" => direct = true,
            _ => break,
        }
        path = before;
    }
    if path.is_empty() {
        return Err("give the file that holds the disk, as in disk.img,ro".to_owned());
    }
    Ok(Drive {
        drive_id: String::new(),
        partuuid: None,
        is_root_device: false,
        cache_type: CacheType::Writeback,
        is_read_only: Some(read_only),
        path_on_host: Some(path.into()),
        rate_limiter: None,
        io_engine: None,
        socket: None,
        direct,
    })
}

/// Reads `tap=NAME[,mac=ADDRESS]`.
fn parse_net(text: &str) -> Result<NetworkInterface, String> {
    let (mut tap, mut mac) = (None, None);
    for word in text.split(',') {
        let again = match word.split_once('=') {
            Some(("tap", name)) => tap.replace(name.to_owned()).is_some(),
            Some(("mac", address)) => mac.replace(parse_mac(address)?).is_some(),
            _ => return Err(format!("{word:?} is neither tap=NAME nor mac=ADDRESS")),
        };
        if again {
            return Err(format!("{word:?} is one too many: for another interface, give --net again"));
        }
    }
    Ok(NetworkInterface {
        iface_id: String::new(),
        host_dev_name: tap.ok_or("give a tap device, as in tap=tap0")?,
        guest_mac: mac,
        mtu: None,
        rx_rate_limiter: None,
        tx_rate_limiter: None,
    })
}

/// Reads the address of one interface.
fn parse_mac(text: &str) -> Result<MacAddress, String> {
    let mac: MacAddress = text.parse().map_err(|error: InvalidMacAddress| error.to_string())?;
    if mac.is_group() {
        return Err(format!(
            "{text} is the address of a group: make its first byte even, as in 06:00:ac:10:00:02"
        ));
    }
    Ok(mac)
}

/// Reads `MIB[,WORD...]`.
fn parse_balloon(text: &str) -> Result<Balloon, String> {
    let mut words = text.split(',');
    let amount = words.next().unwrap_or_default();
    let mut balloon = Balloon {
        amount_mib: amount.parse().map_err(|_| format!("{amount:?} is no number of MiB"))?,
        deflate_on_oom: false,
        stats_polling_interval_s: 0,
        free_page_hinting: false,
        free_page_reporting: false,
    };
    for word in words {
        match (word, word.strip_prefix("stats=")) {
            ("deflate-on-oom", _) => balloon.deflate_on_oom = true,
            ("reporting", _) => balloon.free_page_reporting = true,
            ("hinting", _) => balloon.free_page_hinting = true,
            (_, Some(seconds)) => {
                let seconds = seconds.parse().map_err(|_| format!("{seconds:?} is no number of seconds"))?;
                balloon.stats_polling_interval_s = seconds;
            }
            _ => {
                return Err(format!(
                    "{word:?} is none of deflate-on-oom, stats=SECONDS, reporting and hinting"
                ));
            }
        }
    }
    Ok(balloon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_and_words_behind_it() {
        let disk = |text| {
            let drive = parse_disk(text).unwrap();
            (drive.path_on_host.clone().unwrap().display().to_string(), drive.is_read_only(), drive.direct)
        };
        assert_eq!(disk("a.img"), ("a.img".to_owned(), false, false));
        assert_eq!(disk("a,b.img,direct,ro"), ("a,b.img".to_owned(), true, true));
        assert_eq!(disk("a,rw"), ("a,rw".to_owned(), false, false));
        assert!(parse_disk(",ro").is_err());
    }

    #[test]
    fn an_interface_has_a_tap_device() {
        let net = parse_net("mac=06:00:00:00:00:01,tap=tap0").unwrap();
        assert_eq!(
            (net.host_dev_name.as_str(), net.guest_mac.map(MacAddress::bytes)),
            ("tap0", Some([6, 0, 0, 0, 0, 1]))
        );
        for bad in ["", "tap0", "mac=06:00:00:00:00:01", "tap=t,mac=x", "tap=t,vlan=3", "tap=t,tap=u"] {
            assert!(parse_net(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interface_has_no_address_of_a_group() {
        for group in ["01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"] {
            let error = parse_net(&format!("tap=t,mac={group}")).unwrap_err();
            assert!(error.contains(group) && error.contains("group"), "{error}");
        }
    }

    #[test]
    fn interfaces_share_neither_tap_device_nor_address() {
        let of = |nets: &[&str]| {
            let args = nets.iter().flat_map(|net| ["--net", net]);
            let args = ["run", "--kernel", "k"].into_iter().chain(args);
            crate::args::RunArgs::parse_from(args).devices.network_interfaces()
        };

        assert_eq!(of(&["tap=t", "tap=u"]).unwrap().len(), 2);
        assert_eq!(of(&["tap=t", "tap=u", "tap=t"]), Err(NetArgsError::SharedTap("t".to_owned())));
        let mac = "06:00:00:00:00:01";
        let twice = of(&[&format!("tap=t,mac={mac}"), &format!("tap=u,mac={mac}")]);
        assert_eq!(twice, Err(NetArgsError::SharedMac(mac.parse().unwrap())));
    }

    #[test]
    fn a_balloon_has_an_amount_and_words() {
        let balloon = parse_balloon("16,stats=2,reporting").unwrap();
        assert_eq!((balloon.amount_mib, balloon.stats_polling_interval_s), (16, 2));
        assert!(balloon.free_page_reporting && !balloon.free_page_hinting && !balloon.deflate_on_oom);
        for bad in ["", "x", "-1", "1,stats", "1,stats=x", "1,turbo"] {
            assert!(parse_balloon(bad).is_err(), "{bad}");
        }
    }
}

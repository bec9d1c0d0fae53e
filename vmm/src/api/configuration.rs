//! The configuration of a microVM that has not started: one setter a resource, each of which takes a value or says why
//! not, and leaves everything as it was then.

use super::{
    VmConfig,
    schema::{
        Balloon, BootSource, Drive, Entropy, MachineConfig, MachineConfigUpdate, NetworkInterface, Refusals,
        Refused,
    },
};

/// A configuration in the making, in which everything by itself and all of it together has been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    config: VmConfig,
}

/// A value of a document that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The section, and the number of the element in it if it is a list.
    pub section: (&'static str, Option<usize>),
    /// What is wrong with it.
    pub refused: Refused,
}

impl Configuration {
    /// All of a document at once, or all that is wrong with it.
    ///
    /// # Errors
    /// One [`Misplaced`] for each field that is not taken.
    pub fn of(document: VmConfig) -> Result<Self, Vec<Misplaced>> {
        let VmConfig {
            balloon,
            drives,
            boot_source,
            logger,
            machine_config,
            metrics,
            network_interfaces,
            entropy,
            ..
        } = document;
        let mut new = Self::default();
        let mut wrong = Vec::new();
        let mut note = |section, index, refused: Refusals| {
            wrong.extend(refused.into_iter().map(|refused| Misplaced { section: (section, index), refused }));
        };
        // What is refused is kept all the same, until all is looked at: the rest is held against what is there, and not
        // against a default.
        let refused = machine_config.check();
        let is_memory_known = !refused.has("mem_size_mib");
        note("machine-config", None, refused);
        new.config.machine_config = machine_config;
        if let Some(boot_source) = boot_source {
            note("boot-source", None, boot_source.check());
            new.config.boot_source = Some(boot_source);
        }
        for (index, drive) in drives.into_iter().enumerate() {
            let mut refused = new.check_drive(&drive);
            let again = new.config.drives.iter().any(|other| other.drive_id == drive.drive_id);
            if again {
                refused.add("drive_id", twice(&drive.drive_id));
            } else {
                new.put_drive(drive);
            }
            note("drives", Some(index), refused);
        }
        for (index, interface) in network_interfaces.into_iter().enumerate() {
            let mut refused = new.check_network_interface(&interface);
            let again =
                new.config.network_interfaces.iter().any(|other| other.iface_id == interface.iface_id);
            if again {
                refused.add("iface_id", twice(&interface.iface_id));
            } else {
                new.put_network_interface(interface);
            }
            note("network-interfaces", Some(index), refused);
        }
        if let Some(balloon) = balloon {
            if is_memory_known {
                note("balloon", None, check_balloon(&new.config, balloon.amount_mib).into());
            }
            new.config.balloon = Some(balloon);
        }
        if let Some(entropy) = entropy {
            note("entropy", None, entropy.check().into());
            new.config.entropy = Some(entropy);
        }
        // Those of the API are opened at once instead.
        if let Some(logger) = logger {
            note("logger", None, logger.check().into());
            new.config.logger = Some(logger);
        }
        if let Some(metrics) = metrics {
            note("metrics", None, metrics.check().into());
            new.config.metrics = Some(metrics);
        }
        if wrong.is_empty() { Ok(new) } else { Err(wrong) }
    }

    /// All of a document that was made elsewhere: whoever starts it finds out what is wrong with it.
    #[must_use]
    pub const fn assume(config: VmConfig) -> Self {
        Self { config }
    }

    /// What was configured.
    #[must_use]
    pub const fn config(&self) -> &VmConfig {
        &self.config
    }

    /// What was configured, to note what has changed since the start.
    pub(super) const fn config_mut(&mut self) -> &mut VmConfig {
        &mut self.config
    }

    pub(super) fn set_boot_source(&mut self, source: BootSource) -> Result<(), Refusals> {
        source.check().into_result()?;
        self.config.boot_source = Some(source);
        Ok(())
    }

    pub(super) fn set_machine_config(&mut self, machine: MachineConfig) -> Result<(), Refusals> {
        let mut refused = machine.check();
        if let Some(balloon) = &self.config.balloon
            && u64::from(balloon.amount_mib) > machine.mem_size_mib
        {
            refused.add("mem_size_mib", format!("is less than the balloon's {}", balloon.amount_mib));
        }
        refused.into_result()?;
        self.config.machine_config = machine;
        Ok(())
    }

    pub(super) fn update_machine_config(&mut self, update: MachineConfigUpdate) -> Result<(), Refusals> {
        if update == MachineConfigUpdate::default() {
            return Err(Refused::new("vcpu_count", "nothing is changed: name a field").into());
        }
        self.set_machine_config(update.apply(&self.config.machine_config))
    }

    pub(super) fn set_balloon(&mut self, balloon: Balloon) -> Result<(), Refused> {
        check_balloon(&self.config, balloon.amount_mib)?;
        self.config.balloon = Some(balloon);
        Ok(())
    }

    /// Adds `drive`, or puts it in the place of the one of its name. The root device is the first.
    pub(super) fn set_drive(&mut self, drive: Drive) -> Result<(), Refusals> {
        self.check_drive(&drive).into_result()?;
        self.put_drive(drive);
        Ok(())
    }

    fn check_drive(&self, drive: &Drive) -> Refusals {
        let mut refused = drive.check();
        let another = |other: &&Drive| other.drive_id != drive.drive_id && other.is_root_device;
        // Should there be several, the last one was there before the others.
        if let Some(root) = self.config.drives.iter().rfind(another).filter(|_| drive.is_root_device) {
            refused.add("is_root_device", format!("the root device is {:?} already", root.drive_id));
        }
        refused
    }

    fn put_drive(&mut self, drive: Drive) {
        let drives = &mut self.config.drives;
        let old = drives.iter().position(|other| other.drive_id == drive.drive_id);
        let place = if drive.is_root_device { 0 } else { old.unwrap_or(drives.len()) };
        if let Some(old) = old {
            drives.remove(old);
        }
        drives.insert(place, drive);
    }

    /// Adds `interface`, or puts it in the place of the one of its name.
    pub(super) fn set_network_interface(&mut self, interface: NetworkInterface) -> Result<(), Refusals> {
        self.check_network_interface(&interface).into_result()?;
        self.put_network_interface(interface);
        Ok(())
    }

    fn check_network_interface(&self, interface: &NetworkInterface) -> Refusals {
        let mut refused = interface.check();
        let interfaces = &self.config.network_interfaces;
        let others = || interfaces.iter().filter(|other| other.iface_id != interface.iface_id);
        if let Some(mac) = interface.guest_mac
            && let Some(other) = others().find(|other| other.guest_mac == Some(mac))
        {
            refused.add("guest_mac", format!("{mac} is that of {:?} already", other.iface_id));
        }
        if let Some(other) = others().find(|other| other.host_dev_name == interface.host_dev_name) {
            let taken = format!("{:?} is taken by {:?}", interface.host_dev_name, other.iface_id);
            refused.add("host_dev_name", taken);
        }
        refused
    }

    fn put_network_interface(&mut self, interface: NetworkInterface) {
        let interfaces = &mut self.config.network_interfaces;
        match interfaces.iter_mut().find(|other| other.iface_id == interface.iface_id) {
            Some(old) => *old = interface,
            None => interfaces.push(interface),
        }
    }

    pub(super) fn set_entropy(&mut self, entropy: Entropy) -> Result<(), Refused> {
        entropy.check()?;
        self.config.entropy = Some(entropy);
        Ok(())
    }
}

/// Whether a balloon may hold `amount_mib` of the memory that `config` has.
pub(super) fn check_balloon(config: &VmConfig, amount_mib: u32) -> Result<(), Refused> {
    let memory = config.machine_config.mem_size_mib;
    if u64::from(amount_mib) > memory {
        return Err(Refused::new("amount_mib", format!("is more than the guest's memory: {memory}")));
    }
    Ok(())
}

fn twice(id: &str) -> String {
    format!("{id:?} is there twice")
}

#[cfg(test)]
mod tests;

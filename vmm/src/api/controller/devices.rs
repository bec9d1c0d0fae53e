//! `/drives`, `/network-interfaces` and `/entropy`.

use super::{Answer, Controller, Fault, check_same_id};
use crate::api::schema::{Drive, DriveUpdate, Entropy, NetworkInterface, NetworkInterfaceUpdate};

impl Controller {
    pub(in crate::api) fn put_drive(&mut self, id: &str, drive: Drive) -> Result<Answer, Fault> {
        check_same_id("drive_id", id, &drive.drive_id)?;
        self.before_start("drives")?.set_drive(drive)?;
        Ok(Answer::Done)
    }

    pub(in crate::api) fn patch_drive(&mut self, id: &str, update: &DriveUpdate) -> Result<Answer, Fault> {
        check_same_id("drive_id", id, &update.drive_id)?;
        self.started("an update of a drive")?;
        update.check()?;
        let drives = &self.config().drives;
        let place = drives.iter().position(|drive| drive.drive_id == update.drive_id);
        let place = place.ok_or_else(|| Fault::NotConfigured(format!("drive {:?}", update.drive_id)))?;
        self.started("an update of a drive")?.update_drive(update)?;
        if let Some(path) = &update.path_on_host {
            self.configuration.config_mut().drives[place].path_on_host = Some(path.clone());
        }
        Ok(Answer::Done)
    }

    pub(in crate::api) fn put_network_interface(
        &mut self,
        id: &str,
        interface: NetworkInterface,
    ) -> Result<Answer, Fault> {
        check_same_id("iface_id", id, &interface.iface_id)?;
        self.before_start("network interfaces")?.set_network_interface(interface)?;
        Ok(Answer::Done)
    }

    /// Only rate limiters could be changed, and there are none: what limits nothing is taken.
    pub(in crate::api) fn patch_network_interface(
        &mut self,
        id: &str,
        update: &NetworkInterfaceUpdate,
    ) -> Result<Answer, Fault> {
        check_same_id("iface_id", id, &update.iface_id)?;
        self.started("an update of a network interface")?;
        update.check()?;
        let interfaces = &self.config().network_interfaces;
        if interfaces.iter().any(|interface| interface.iface_id == update.iface_id) {
            return Ok(Answer::Done);
        }
        Err(Fault::NotConfigured(format!("network interface {:?}", update.iface_id)))
    }

    pub(in crate::api) fn put_entropy(&mut self, entropy: Entropy) -> Result<Answer, Fault> {
        self.before_start("the source of entropy")?.set_entropy(entropy)?;
        Ok(Answer::Done)
    }
}

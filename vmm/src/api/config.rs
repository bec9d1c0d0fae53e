//! What a microVM is to be: the document of `--config-file` and of GET /vm/config.

use serde::{Deserialize, Serialize};

use super::schema::{
    Balloon, BootSource, DEFAULT_BOOT_ARGS, Drive, Entropy, Lacking, Logger, MachineConfig, MetricsConfig,
    NetworkInterface,
};

/// Everything that is configured before a microVM starts.
///
/// The first drive is the root device, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct VmConfig {
    /// The balloon.
    pub balloon: Option<Balloon>,
    /// The drives, in the order in which the guest finds them.
    pub drives: Vec<Drive>,
    /// The kernel; a microVM starts with one only.
    pub boot_source: Option<BootSource>,
    /// Not to be had here.
    pub cpu_config: Lacking,
    /// The log.
    pub logger: Option<Logger>,
    /// vCPUs and memory.
    pub machine_config: MachineConfig,
    /// The metrics.
    pub metrics: Option<MetricsConfig>,
    /// Not to be had here.
    pub mmds_config: Lacking,
    /// The network interfaces, in the order in which the guest finds them.
    pub network_interfaces: Vec<NetworkInterface>,
    /// Not to be had here.
    pub vsock: Lacking,
    /// The source of random bytes.
    pub entropy: Option<Entropy>,
    /// Not to be had here.
    pub pmem: Vec<Lacking>,
    /// Not to be had here.
    pub memory_hotplug: Lacking,
}

impl VmConfig {
    /// The drive that the guest mounts as its root file system.
    #[must_use]
    pub fn root_drive(&self) -> Option<&Drive> {
        self.drives.first().filter(|drive| drive.is_root_device)
    }

    /// The kernel's command line: what was given, or the default, and where the root file system is, before the arguments
    /// that are for init.
    #[must_use]
    pub fn command_line(&self) -> String {
        let given = self.boot_source.as_ref().and_then(|source| source.boot_args.as_deref());
        let given = given.unwrap_or(DEFAULT_BOOT_ARGS);
        let Some(drive) = self.root_drive() else {
            return given.to_owned();
        };
        let device = drive.partuuid.as_ref().map_or("/dev/vda".to_owned(), |id| format!("PARTUUID={id}"));
        let access = if drive.is_read_only() { "ro" } else { "rw" };
        let (kernel, init) = given.split_at(kernel_arguments_end(given));
        format!("{kernel} root={device} {access}{init}")
    }
}

/// Where the arguments for the kernel end in `line`: before a `--` that is not between quotes, or where the line ends.
fn kernel_arguments_end(line: &str) -> usize {
    let mut separators = line.match_indices(" -- ").map(|(at, _)| at);
    separators.find(|at| line[..*at].matches('"').count().is_multiple_of(2)).unwrap_or(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn config(json: &str) -> VmConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn sections_that_say_nothing_are_taken() {
        let nothing = config(
            r#"{"cpu-config":null,"vsock":null,"mmds-config":null,"balloon":null,"pmem":[],"memory-hotplug":null,
                "logger":null,"metrics":null,"entropy":null,"network-interfaces":[],"drives":[],"boot-source":null}"#,
        );

        assert_eq!(nothing, VmConfig::default());
        assert_eq!(nothing.command_line(), DEFAULT_BOOT_ARGS);
    }

    #[test]
    fn the_root_drive_is_told_to_the_guest() {
        let root = |more: &str| {
            config(&format!(
                r#"{{"boot-source":{{"kernel_image_path":"k","boot_args":"quiet"}},
                    "drives":[{{"drive_id":"a","is_root_device":true,"path_on_host":"d"{more}}}]}}"#
            ))
        };

        assert_eq!(root("").command_line(), "quiet root=/dev/vda rw");
        assert_eq!(root(r#","is_read_only":true"#).command_line(), "quiet root=/dev/vda ro");
        assert_eq!(root(r#","partuuid":"1-2""#).command_line(), "quiet root=PARTUUID=1-2 rw");
    }

    #[test]
    fn the_root_drive_comes_before_the_arguments_for_init() {
        let with = |boot_args: &str| {
            let given = config(&format!(
                r#"{{"boot-source":{{"kernel_image_path":"k","boot_args":"{boot_args}"}},
                    "drives":[{{"drive_id":"a","is_root_device":true,"path_on_host":"d"}}]}}"#
            ));
            given.command_line()
        };

        assert_eq!(with("quiet -- -x -- y"), "quiet root=/dev/vda rw -- -x -- y");
        assert_eq!(with(r#"a=\"b -- c\" d"#), r#"a="b -- c" d root=/dev/vda rw"#);
        assert_eq!(with("a--b"), "a--b root=/dev/vda rw");
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        let before = config(
            r#"{"machine-config":{"vcpu_count":2,"mem_size_mib":64,"backing":"managed_4kb"},
                "network-interfaces":[{"iface_id":"e","host_dev_name":"t","guest_mac":"06:00:00:00:00:01"}],
                "logger":{"level":"warning"}}"#,
        );

        let text = serde_json::to_string(&before).unwrap();

        assert_eq!(config(&text), before);
    }
}
